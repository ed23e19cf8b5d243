# SPDX-License-Identifier: LGPL-2.1-or-later
"""Aging the multi-gen LRU: beginning generations, and how often that can be afforded.

Documentation/admin-guide/mm/multigen_lru.rst. An aging walks the page tables of all processes of a
memcg, about as long as there is mapped memory. The kernel does it in the caller's context, so what
it costs is what the command took.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from hibprep.kernel import lrugen
from hibprep.model import GenerationList
from hibprep.reclaim.base import Stop, Worker, WriteResult

AFFORDABLE_SHARE = 0.02  # of one CPU, for all lists together
_LONGEST_SPACING = 3.0  # times what was asked for: somebody may be waiting
_LEAST_SPACING_SECONDS = 1.0
# The way is closed, for this list as for any other: not root, lockdown, debugfs unmounted.
_CLOSED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENODEV})
# EEXIST (7.x): the kernel itself has begun a generation since the file was read; 6.12 and older do
# nothing then and answer 0. Either way there is a new one.
_BEGUN = frozenset({0, errno.EEXIST})


@dataclass(slots=True)
class Aged:
    """How often a list was aged here, and what the last time took. `known_from`: generations up to
    this one say nothing of how long memory was idle."""

    known_from: int
    agings: int = 0
    seconds: float = 0.0
    lost: bool = False  # it cannot be aged: its cgroup went away


class Aging:
    """Begins generations, one list at a time, and keeps account of what it costs.

    `was_on` tells whether the multi-gen LRU was on before: where it is only switched on for the
    run, the generations that there are from the start claim the age of their cgroup
    (lru_gen_init_lruvec() in mm/vmscan.c), although nobody looked.
    """

    def __init__(self, worker: Worker, *, was_on: bool) -> None:
        self._worker = worker
        self._was_on = was_on
        self._lists: dict[tuple[str, int, int], Aged] = {}

    def of(self, entry: GenerationList) -> Aged:
        """The account of a list. Numbers of memcgs are used again up to 6.12: the path counts."""
        key = (entry.path, entry.memcg_id, entry.node)
        found = self._lists.get(key)
        if found is None:
            youngest = entry.generations[-1].sequence if entry.generations else 0
            found = self._lists[key] = Aged(known_from=-1 if self._was_on else youngest)
        return found

    def age(self, entry: GenerationList, stop: Stop) -> WriteResult:
        """Begin a generation after the youngest that `entry` has. An error counts as an aging too:
        a list that cannot be aged must not be waited for."""
        command = lrugen.aging_command(entry.memcg_id, entry.node, entry.generations[-1].sequence)
        result = self._worker.write(lrugen.GENERATIONS_FILE, command, stop)
        if not result.stopped:
            account = self.of(entry)
            account.agings += 1
            account.seconds = result.seconds
            account.lost = result.errno not in _BEGUN
        return result

    @property
    def round_seconds(self) -> float:
        """What it takes to age every list once, as far as each was aged yet."""
        return sum(account.seconds for account in self._lists.values())

    def spacing_seconds(self, wanted_seconds: float) -> float:
        """How far apart agings are to be when `wanted_seconds` is what is to be proven: no oftener
        than a small share of a CPU allows, within bounds."""
        least = max(wanted_seconds, _LEAST_SPACING_SECONDS)
        affordable = self.round_seconds / AFFORDABLE_SHARE
        return min(max(least, affordable), _LONGEST_SPACING * least)


def is_closed(number: int) -> bool:
    """Whether this errno means that no list can be aged."""
    return number in _CLOSED
