# SPDX-License-Identifier: LGPL-2.1-or-later
"""`memory.swap.reclaim` on a fake machine, as the patches "Opportunistic memory reclaim" (RFC v2,
linux-mm, October 2020) have it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeCgroup, failure, whole
from tests.fakes.texts import CGROUPS


def add_swap_reclaim(machine: FakeMachine, *, round_bytes: int = 1 << 62) -> dict[str, int]:
    """`memory.swap.reclaim` in every cgroup, as the RFC's patch has it: a write takes round after
    round until it is enough or a round brings nothing, and always succeeds; what it came to is what
    the file reads afterwards. Returns these figures by cgroup."""
    told: dict[str, int] = {}

    def write(path: str, text: str) -> None:
        word = text.strip()
        left = 1 << 62 if word == "max" else whole(_memparse(word))
        told[path] = 0
        while left > 0:
            swappiness = machine.swappiness
            got = machine.reclaim(path, min(left, round_bytes), swappiness)
            if not got:
                return
            told[path] += got
            left -= got

    def files(cgroup: FakeCgroup) -> tuple[str, Callable[[], str], Callable[[str], None]]:
        path = cgroup.path
        file = f"{CGROUPS}{path.rstrip('/')}/memory.swap.reclaim"
        return file, lambda: f"{told.get(path, 0)}\n", partial(write, path)

    for cgroup in machine.by_path.values():
        machine.add_file(*files(cgroup))
    return told


def _memparse(word: str) -> int:
    factor = {"K": 10, "M": 20, "G": 30}.get(word[-1:].upper(), 0)
    digits = word[:-1] if factor else word
    if not digits.isdigit():
        raise failure(errno.EINVAL)
    return int(digits) << factor
