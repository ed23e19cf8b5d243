# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which cgroup is asked next, where rules forbid to ask one above all: everyone in proportion to
what it has, as reclaim from above would.

Reclaim that names a cgroup passes over what memory.min and memory.low say of that cgroup
(Documentation/admin-guide/cgroup-v2.rst), so both are heeded here.
"""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.model import Kind, Step
from hibprep.rules import reach, scope_memory

_LEAST_BYTES = 256 << 10  # not worth asking for
_FRUITLESS_TURNS = 3


@dataclass(slots=True)
class _Share:
    """What one cgroup had when it was looked at, how much of it was asked for since, and how often
    in a row it gave nothing."""

    has_bytes: int
    asked_bytes: int = 0
    fruitless: int = 0

    @property
    def resting(self) -> bool:
        """Whether it gives no more."""
        return self.fruitless >= _FRUITLESS_TURNS or self.has_bytes < _LEAST_BYTES


@dataclass(frozen=True, slots=True)
class Turn:
    """Ask this cgroup for so much."""

    path: str
    amount_bytes: int


class Shares:
    """Whose turn it is. What was learned holds for one step; the tree is looked at for every turn,
    since what a rule keeps may begin at any time."""

    def __init__(self, tree: CgroupTree, page_size: int) -> None:
        self._tree = tree
        self._page = page_size
        self._step: Step | None = None
        self._shares: dict[str, _Share] = {}

    def next(self, step: Step, amount_bytes: int, passed: set[str]) -> Turn | None:
        """The next turn, for no more than `amount_bytes` and none of `passed`; None when nobody
        else has anything to give."""
        if self._step != step:
            self._step, self._shares = step, {}
        waiting = []
        for path in reach(step.scope.path, step.spared, self._tree):
            share = self._share_of(path, step.kind)
            if path not in passed and not share.resting:
                waiting.append((share.asked_bytes / share.has_bytes, path, share))
        for _, path, share in sorted(waiting, key=lambda each: each[:2]):
            room = self._tree.losable_bytes(path, to_swap=False, low=True)
            amount = min(amount_bytes, share.has_bytes, room) // self._page * self._page
            if amount > 0:
                return Turn(path, amount)
        return None

    def told(self, turn: Turn, *, moved: bool) -> None:
        """What came of a turn."""
        share = self._shares[turn.path]
        share.asked_bytes += turn.amount_bytes
        share.fruitless = 0 if moved else share.fruitless + 1

    def gone(self, turn: Turn) -> None:
        """There is no such cgroup any more, or it has no memory.reclaim."""
        self._shares[turn.path] = _Share(0)

    def _share_of(self, path: str, kind: Kind) -> _Share:
        share = self._shares.get(path)
        if share is None:
            share = self._shares[path] = _Share(self._has_bytes(path, kind))
        elif share.asked_bytes >= share.has_bytes and not share.resting:
            share.has_bytes, share.asked_bytes = self._has_bytes(path, kind), 0
        return share

    def _has_bytes(self, path: str, kind: Kind) -> int:
        try:
            memory = scope_memory(self._tree.stat(path))
        except KernelFileError:
            return 0  # it ended, or has no memory of its own
        if kind is Kind.FILE:
            return memory.file_bytes
        return memory.anon_bytes + (memory.file_bytes if kind is Kind.ANY else 0)
