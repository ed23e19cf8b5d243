# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is it allowed: by the kernel, by systemd's settings, by logind. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hibprep.checks.finding import GRUB, NAMED, Finding, Severity

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts

_SLEEPS = {"SuspendThenHibernate": "suspend-then-hibernate", "HybridSleep": "hybrid-sleep"}
_USUAL_MODES = frozenset({"platform", "shutdown"})


def findings(facts: CheckFacts) -> Iterator[Finding]:
    """What forbids it, and who."""
    yield from _kernel(facts)
    yield from _systemd(facts)
    yield from _logind(facts)


def _kernel(facts: CheckFacts) -> Iterator[Finding]:
    power = facts.snapshot.power
    told = False
    if power.lockdown in ("integrity", "confidentiality"):
        told = True
        yield Finding(
            Severity.ERROR,
            "lockdown",
            f"kernel lockdown ({power.lockdown}) forbids hibernation",
            "switch Secure Boot off in the firmware (mokutil --sb-state tells), and take lockdown= "
            "off the kernel command line " + GRUB,
        )
    for pid, name in facts.secretmem:
        told = True
        yield Finding(
            Severity.ERROR,
            "secretmem",
            f"process {pid} ({name or 'unknown'}) holds secret memory (memfd_secret), and while it "
            "does the kernel refuses to hibernate",
            f"end it: kill {pid}; or boot with secretmem.enable=0",
        )
    words = ("nohibernate", "hibernate=no", "noresume", "hibernate=noresume")
    words_there = [word for word in words if word in facts.command_line]
    for word in words_there:
        told = True
        yield Finding(
            Severity.ERROR,
            "disabled",
            f"{word} on the kernel command line forbids it",
            f"take {word} away {GRUB}",
        )
    if not power.available and not told:
        for reason in power.disabled_by or ("this kernel does not offer it",):
            yield Finding(
                Severity.ERROR,
                "disabled",
                f"hibernation is not available: {reason}",
                "cat /sys/power/disk /sys/power/state shows what the kernel offers; a Debian "
                "kernel has it: apt install linux-image-amd64",
            )
    if power.available:
        yield Finding(Severity.OK, "allowed", "the kernel offers hibernation")


def _systemd(facts: CheckFacts) -> Iterator[Finding]:
    for reason in facts.barred_by_systemd:
        place, _, unit = reason.partition(" masks ")
        yield Finding(
            Severity.ERROR,
            "disabled",
            f"systemd forbids it: {reason}",
            f"systemctl unmask {unit}"
            if unit
            else f"set AllowHibernation=yes in {place.partition(': ')[0]}",
        )
    for setting in facts.systemd.not_allowed:
        yield Finding(
            Severity.INFO,
            "other-sleep",
            f"{setting.path} says {setting.value}; hibernation itself is not concerned",
            f"take {setting.value} out of {setting.path} if that sleep is wanted",
        )
    for place, unit in facts.systemd.masked:
        yield Finding(
            Severity.INFO,
            "other-sleep",
            f"{place} masks {unit}; hibernation itself is not concerned",
            f"systemctl unmask {unit} if that sleep is wanted",
        )
    mode = facts.systemd.mode
    if mode is not None and mode.value and not _USUAL_MODES & set(mode.value.split()):
        yield Finding(
            Severity.WARNING,
            "hibernate-mode",
            f"{mode.path} says HibernateMode={mode.value}: the machine would not power off",
            f"set HibernateMode=platform shutdown in {mode.path}",
        )


def _logind(facts: CheckFacts) -> Iterator[Finding]:
    permission = facts.systemd.permission
    if permission is None:
        return
    if permission.unasked:
        yield Finding(
            Severity.INFO,
            "logind",
            f"logind could not be asked: {permission.unasked}",
            "start dbus and systemd-logind; without them: hibprep hibernate --direct",
        )
        return
    answer = permission.answers.get("Hibernate", "")
    if answer == "yes":
        yield Finding(Severity.OK, "logind", "logind would hibernate now")
    elif answer == "challenge":
        yield Finding(
            Severity.INFO, "logind", "logind would ask for a password", "sudo systemctl hibernate"
        )
    elif answer == "no":
        yield Finding(
            Severity.WARNING,
            "logind",
            "this user may not hibernate the machine, says logind",
            "sudo systemctl hibernate; polkit's rules say who may",
        )
    elif answer == "na":
        yield Finding(
            Severity.ERROR,
            "logind",
            "logind says that hibernation is not possible here (na); the other errors are its "
            "reasons, as far as they can be seen from outside",
            "mend those; journalctl -u systemd-logind may say more. It does not stand in the way "
            "of: hibprep hibernate --direct",
        )
    elif answer:
        yield Finding(
            Severity.WARNING,
            "logind",
            f"logind answers {answer} to CanHibernate",
            "systemd-inhibit --list shows who is against",
        )
    for name, other in permission.answers.items():
        if answer == "yes" and other == "na":
            yield Finding(
                Severity.INFO,
                "other-sleep",
                f"logind says that {_SLEEPS.get(name, name)} is not possible here; hibernation "
                "itself is not concerned",
            )
    blocking = [
        item
        for item in permission.inhibitors
        if "sleep" in item.what and item.mode.startswith("block")
    ]
    for item in blocking[:NAMED]:
        yield Finding(
            Severity.WARNING,
            "inhibited",
            f"{item.who or 'a program'} (process {item.pid}) keeps the machine from sleeping"
            + (f": {item.why}" if item.why else ""),
            f"end it, or: systemctl hibernate --check-inhibitors=no; ps {item.pid} shows it",
        )
    if len(blocking) > NAMED:
        yield Finding(
            Severity.WARNING, "inhibited", f"and {len(blocking) - NAMED} more programs like it"
        )
