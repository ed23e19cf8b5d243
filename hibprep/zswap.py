# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of zswap while memory is swapped out for a hibernation (zswap.rst in
Documentation/admin-guide/mm; memory.zswap.max and memory.zswap.writeback in cgroup-v2.rst). Pure.

What zswap takes stays in memory, compressed, as memory of the kernel: it is in the image, cannot be
shrunk there, and does not compress again. So what is meant for the disk is kept away from it, as
narrowly as that can be done:

- for one cgroup by its memory.zswap.max (5.19), and the rest of the machine keeps its zswap;
- for the whole machine by the switch of zswap, unless some cgroup may not write to a disk
  (memory.zswap.writeback, 6.8). The switch would overrule that; so then memory.zswap.max is set on
  the largest cgroups beside those, which go on using zswap as they were told to.

With memory.zswap.max at 0 the pool does not grow; since 6.8 a cgroup that has something in it gives
one old page to the disk for each new one that the pool takes (zswap_store() calls shrink_memcg()
before it refuses).
"""

from __future__ import annotations

from collections.abc import Iterable

from hibprep.model import (
    BackendName,
    Kind,
    KnobChange,
    Limit,
    Limits,
    Scope,
    ScopeKind,
    Snapshot,
    Stage,
    Step,
    ZswapCgroup,
    ZswapUse,
)
from hibprep.rules import covers

ENABLED = "/sys/module/zswap/parameters/enabled"

_REASON = "zswap would keep in memory, compressed, what is meant for the disk"
_MEASURED_BYTES = 16 << 20  # with less in the pool its ratio says little
_ASSUMED_SHARE = 0.4
_LARGEST_SHARE = 0.9
_MOST_NAMES = 3


def to_disk(step: Step, limits: Limits) -> bool:
    """Whether what a step swaps out is meant for the disk. coldpgs tells zswap by itself what is
    meant for it (threshold_nonrot)."""
    if step.kind not in (Kind.ANON, Kind.ANY) or step.backend is BackendName.COLDPGS:
        return False
    if limits.zswap is not ZswapUse.LESS_COLD:
        return limits.zswap is ZswapUse.AVOID
    return step.stage is Stage.COLD_ANON or step.min_age_seconds >= limits.cold_age_seconds


def changes(snapshot: Snapshot, steps: Iterable[Step], limits: Limits) -> tuple[KnobChange, ...]:
    """The settings to be changed while those steps run that write to the disk; for the time of
    those stages alone where others are to go on using zswap."""
    if not snapshot.zswap_enabled:
        return ()
    swapping = [step for step in steps if step.kind in (Kind.ANON, Kind.ANY)]
    away = [step for step in swapping if to_disk(step, limits)]
    if not away:
        return ()
    stages: tuple[Stage, ...] = ()
    if limits.zswap is ZswapUse.LESS_COLD and len(away) < len(swapping):
        stages = tuple(dict.fromkeys(step.stage for step in away))
    return tuple(
        KnobChange(path=path, value=value, reason=_REASON, stages=stages)
        for path, value in _settings(snapshot, limits.scope)
    )


def _settings(snapshot: Snapshot, scope: Scope) -> tuple[tuple[str, str], ...]:
    groups = {each.path: each for each in snapshot.zswap_cgroups}
    if scope.kind is ScopeKind.CGROUP and scope.path in groups:
        return tuple((path, "0") for path in _largest(groups.values(), scope.path))
    if any(not each.writeback for each in groups.values()):
        return tuple((path, "0") for path in _largest(groups.values(), "/"))
    return ((ENABLED, "N"),)


def _largest(groups: Iterable[ZswapCgroup], top: str) -> list[str]:
    """memory.zswap.max of the largest cgroups at or below `top` that have none in them that may
    not write to a disk, and are in none."""
    known = sorted(groups, key=lambda each: each.path)
    bound = [each.path for each in known if not each.writeback]
    found: list[ZswapCgroup] = []
    for each in known:
        if not covers(top, each.path):
            continue
        if any(covers(path, each.path) or covers(each.path, path) for path in bound):
            continue
        if not any(covers(above.path, each.path) for above in found):
            found.append(each)
    return [each.max_file for each in found]


def notes(snapshot: Snapshot, limits: Limits) -> tuple[Limit, ...]:
    """What stays in memory because of it, in words."""
    if not snapshot.zswap_enabled:
        return ()
    found = []
    bound = [
        each
        for each in snapshot.zswap_cgroups
        if not each.writeback
        and (covers(limits.scope.path, each.path) or covers(each.path, limits.scope.path))
    ]
    if bound:
        names = ", ".join(each.path for each in bound[:_MOST_NAMES])
        if len(bound) > _MOST_NAMES:
            names += f" and {len(bound) - _MOST_NAMES} more"
        text = f"{names} may not write to a disk: what is swapped out there stays in zswap's pool"
        found.append(Limit(name="memory.zswap.writeback", text=text))
    if limits.zswap is ZswapUse.LEAVE:
        text = "zswap is left on: what it takes stays in memory, compressed, and in the image"
        found.append(Limit(name="zswap", text=text))
    elif limits.zswap is ZswapUse.LESS_COLD:
        text = (
            f"what is not known to be idle for {limits.cold_age_seconds:g} s goes to zswap: it "
            "stays in the image, compressed, and is back at once after the resume"
        )
        found.append(Limit(name="zswap", text=text))
    return tuple(found)


# --- what that makes of the amounts ---------------------------------------------------------------


def wanted_bytes(snapshot: Snapshot, limits: Limits, stage: Stage, rest_bytes: int) -> int:
    """How much a stage has to swap out for memory to become less by `rest_bytes`."""
    return round(rest_bytes / (1 - _stays(snapshot, limits, stage)))


def stays_bytes(snapshot: Snapshot, limits: Limits, *, cold_bytes: int, anon_bytes: int) -> int:
    """How much of what the stages cold-anon and anon swap out stays in the pool."""
    return round(
        cold_bytes * _stays(snapshot, limits, Stage.COLD_ANON)
        + anon_bytes * _stays(snapshot, limits, Stage.ANON)
    )


def _stays(snapshot: Snapshot, limits: Limits, stage: Stage) -> float:
    """The share of what a stage swaps out that stays in memory, compressed: as well as what is in
    the pool now does it."""
    uses = limits.zswap is ZswapUse.LEAVE or (
        limits.zswap is ZswapUse.LESS_COLD and stage is Stage.ANON
    )
    if not snapshot.zswap_enabled or not uses:
        return 0.0
    memory = snapshot.memory
    if memory.zswapped_bytes < _MEASURED_BYTES:
        return _ASSUMED_SHARE
    return min(_LARGEST_SHARE, memory.zswap_bytes / memory.zswapped_bytes)
