# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what systemd and the bus have to be told when files of theirs have changed.

Telling them is offered with an installation, and done with a removal: a unit whose file is gone
would run on, and be missed at the next boot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hibprep.install.manifest import SERVICE
from hibprep.install.steps import Action, Plan

_LOGIND = "/logind.conf.d/"
_LIBVIRT = "/libvirt/hooks/"


@dataclass(frozen=True, slots=True)
class Command:
    """One command, and why. `needed`: that it fails is worth telling."""

    argv: tuple[str, ...]
    why: str
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Manager:
    """What is known of the service manager of the system that is installed into."""

    prefix: str = "/"  # the root
    running: bool = True  # it is the manager of this machine
    enabled: frozenset[str] = frozenset()  # the units that are linked to be started

    @property
    def reached(self) -> bool:
        """Whether it can be told anything now."""
        return self.running and self.prefix == "/"


def after_install(plan: Plan, manager: Manager) -> tuple[Command, ...]:
    """What puts the installed files into force."""
    changed = plan.acted_on(Action.WRITE, Action.REPLACE, Action.REMOVE)
    if not manager.reached:
        if SERVICE in manager.enabled:
            return ()
        return (
            Command(
                ("systemctl", f"--root={manager.prefix}", "enable", SERVICE),
                "the daemon starts at the next boot",
            ),
        )
    commands = _reloads(changed)
    if SERVICE not in manager.enabled:
        commands.append(
            Command(
                ("systemctl", "enable", "--now", SERVICE),
                "the daemon runs from now on, and after every boot",
            )
        )
    elif any(_LOGIND not in path for path in changed):
        commands.append(
            Command(("systemctl", "restart", SERVICE), "the daemon runs as it is installed now")
        )
    return tuple(commands)


def before_uninstall(plan: Plan, manager: Manager) -> tuple[Command, ...]:
    """What has to end before the files go."""
    units = _units(plan.acted_on(Action.REMOVE))
    if not units:
        return ()
    if not manager.reached:
        linked = tuple(unit for unit in units if unit in manager.enabled)
        argv = ("systemctl", f"--root={manager.prefix}", "disable", *linked)
        return (Command(argv, "they are not started any more"),) if linked else ()
    return (
        Command(("systemctl", "disable", "--now", *units), "they end, and are not started again"),
        # or one that had failed stays in systemd's list; one that is not in it is no failure
        Command(("systemctl", "reset-failed", *units), "nothing of them is kept", needed=False),
    )


def after_uninstall(plan: Plan, manager: Manager) -> tuple[Command, ...]:
    """What makes systemd and the bus forget the files."""
    if not manager.reached:
        return ()
    return tuple(_reloads(plan.acted_on(Action.REMOVE)))


def _units(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(path.rsplit("/", 1)[1] for path in paths if path.endswith(".service"))


def _reloads(changed: tuple[str, ...]) -> list[Command]:
    commands = []
    if _units(changed):
        commands.append(Command(("systemctl", "daemon-reload"), "systemd reads the units"))
    if any("/dbus-1/" in path for path in changed):
        commands.append(
            Command(
                ("systemctl", "reload", "dbus.service"),
                "the bus reads who may speak with the daemon",
            )
        )
    if any(_LOGIND in path for path in changed):
        # not a restart, which ends sessions on older versions; it reads its settings on SIGHUP
        commands.append(
            Command(
                ("systemctl", "kill", "--signal=HUP", "systemd-logind.service"),
                "logind reads its settings",
            )
        )
    if any(_LIBVIRT in path for path in changed):
        # what of the two is not there, or does not run, is left alone
        commands.append(
            Command(
                ("systemctl", "try-reload-or-restart", "libvirtd.service", "virtqemud.service"),
                "libvirt looks which hooks there are; no guest notices",
                needed=False,
            )
        )
    return commands
