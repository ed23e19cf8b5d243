# SPDX-License-Identifier: LGPL-2.1-or-later
"""Can memory be taken: what keeps reclaim from its work. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hibprep.checks.finding import GRUB, NAMED, Finding, Severity
from hibprep.coldness import DAMON_STAT_HIDES
from hibprep.page import size

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts


def findings(facts: CheckFacts) -> Iterator[Finding]:
    """What is out of reach."""
    if not facts.cgroup_memory:
        yield Finding(
            Severity.WARNING,
            "no-cgroup2",
            f"memory.reclaim is not available: {facts.cgroup_reason}",
            "add systemd.unified_cgroup_hierarchy=1 (without systemd: cgroup_no_v1=all) and take "
            f"cgroup_disable=memory away {GRUB}",
        )
    hard = [item for item in facts.protected if item.min_bytes]
    soft = [item for item in facts.protected if item.low_bytes and not item.min_bytes]
    for severity, field, group, effect in (
        (Severity.WARNING, "min", hard, "reclaim of the whole machine can never touch it"),
        (Severity.INFO, "low", soft, "reclaim of the whole machine takes it last"),
    ):
        for item in sorted(group, key=lambda found: -found.current_bytes)[:NAMED]:
            amount = item.min_bytes if field == "min" else item.low_bytes
            amount = min(amount, item.current_bytes)
            yield Finding(
                severity,
                f"memory-{field}",
                f"memory.{field} protects {size(amount)} of cgroup {item.path}: {effect}",
                _unprotect(item.path, field) + f"; or: hibprep prepare --cgroup {item.path}",
            )
        if len(group) > NAMED:
            yield Finding(
                severity, f"memory-{field}", f"and {len(group) - NAMED} more cgroups like them"
            )
    if facts.snapshot.laptop_mode:
        yield Finding(
            Severity.WARNING,
            "laptop-mode",
            f"vm.laptop_mode is {facts.snapshot.laptop_mode}: up to Linux 6.12 reclaim then hardly "
            "swaps anything out",
            "sysctl vm.laptop_mode=0; TLP and laptop-mode-tools set it",
        )
    if facts.snapshot.damon_stat and facts.snapshot.lru_gen_enabled is not None:
        yield Finding(
            Severity.INFO,
            "damon-stat",
            f"{DAMON_STAT_HIDES}: what is used seldom looks colder than it is. It is switched off "
            "while hibprep finds out ages, and not while the daemon goes by those there are",
            "echo N > /sys/module/damon_stat/parameters/enabled, or for good damon_stat.enabled=N "
            "on the kernel's command line",
        )


def _unprotect(path: str, field: str) -> str:
    unit = path.rsplit("/", 1)[-1]
    if unit.endswith((".slice", ".service", ".scope")):
        return f"systemctl set-property --runtime {unit} Memory{field.capitalize()}=0"
    return f"echo 0 > /sys/fs/cgroup{path}/memory.{field}"
