# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that goes on running in a guest while memory is freed beside it; one sample of that.

`bench/interference.py` says in which order, keeps the samples, and makes the figures.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.lab import Guest, LabError, Workload, build_wheel

MIB = 1 << 20
GIB = 1 << 30
MEMORY_BYTES = 2 * GIB
COLD_BYTES = MEMORY_BYTES * 55 // 100 // MIB * MIB
WARM_BYTES = MEMORY_BYTES // 10 // MIB * MIB
PERIOD_SECONDS = 0.25
USER_SLICE = "user-1000.slice"
SETTLE_SECONDS = 5.0  # the fill's own traces: writing back, and pages that count as new
AFTER_SECONDS = 2.0
TIMEOUT_SECONDS = 900.0

_WITNESS = Path(__file__).with_name("witness.py")
_REMOTE = "/opt/hibprep-lab/witness.py"
_STATES = "/run/hibprep-bench"


class Situation(StrEnum):
    """What happens beside the working set."""

    QUIET = "quiet"
    HIBPREP = "hibprep"
    ONELINER = "oneliner"


@dataclass(frozen=True, slots=True)
class Sample:
    """One situation of one round. `seconds` is how long it lasted, the start of the interpreter
    included, `watched_seconds` with the while after it; `passes` are the seconds of each pass that
    ended in that time, `missed` how many more there were, `slowest_seconds` the slowest of them
    all; freed and swapped bytes are by the kernel's counters, of the situation alone."""

    round: int
    situation: Situation
    seconds: float
    watched_seconds: float
    passes: tuple[float, ...]
    missed: int
    slowest_seconds: float
    warm_present: int
    warm_pages: int
    cold_present: int
    cold_pages: int
    fetched_back_pages: int | None
    anon_bytes: int
    file_bytes: int
    swapped_out_bytes: int
    swapped_in_bytes: int


def deed(situation: Situation, quiet: float) -> list[str]:
    """What the witness is told to do. Both that free memory are asked for the same bytes of the
    same kind: swappiness 200 is how hibprep says "anonymous" on this kernel."""
    return {
        Situation.QUIET: [f"--idle={quiet}"],
        Situation.ONELINER: [f"--write={COLD_BYTES} swappiness=200"],
        Situation.HIBPREP: [
            *("--", "hibprep", "reclaim", str(COLD_BYTES), "--type", "anon", "--json"),
        ],
    }[situation]


class Watched(Workload):
    """The working set, with its state file on a ramfs. On a tmpfs the file itself is swapped out,
    and who reads it waits for the disk just when there is something to see: passes were missed."""

    def __init__(self, guest: Guest, name: str) -> None:
        super().__init__(
            guest,
            warm_bytes=WARM_BYTES,
            period_seconds=PERIOD_SECONDS,
            slice_name=USER_SLICE,
            name=name,
        )
        self.state_file = self._path = f"{_STATES}/{name}.json"
        self._arguments.append(f"--state={self._path}")  # the last one counts


def make_ready(guest: Guest) -> None:
    """What a guest needs once: hibprep, the witness, and somewhere for state files."""
    guest.install(build_wheel())
    guest.put(_WITNESS, _REMOTE, 0o755)
    guest.run(["mkdir", "-p", _STATES], check=True)
    guest.run(["mount", "-t", "ramfs", "none", _STATES], check=True)


def measure_one(guest: Guest, number: int, situation: Situation, quiet: float) -> Sample:
    """Fill memory, let it happen with the witness at hand, give the memory back."""
    name = f"{number}-{situation}"
    warm = Watched(guest, f"warm-{name}")
    cold = Workload(guest, cold_bytes=COLD_BYTES, slice_name="system.slice", name=f"cold-{name}")
    with ExitStack() as stack:
        for each in (warm, cold):
            each.start()
            stack.callback(each.stop)
        guest.run(["sync"], check=True)
        time.sleep(SETTLE_SECONDS)
        warm.reset()
        answer = guest.run(
            [
                *("/usr/bin/python3", "-I", "-S", _REMOTE, f"--after={AFTER_SECONDS}"),
                *(f"--state={warm.state_file}", *deed(situation, quiet)),
            ],
            timeout=TIMEOUT_SECONDS,
            check=True,
        ).json()
        if answer["error"]:
            raise LabError(f"{situation}: {answer['error']}")
        left, bulk = warm.residency(), cold.residency()
        return Sample(
            round=number,
            situation=situation,
            passes=tuple(answer["passes"]),
            warm_present=left.warm_present,
            warm_pages=left.warm_pages,
            cold_present=bulk.cold_present,
            cold_pages=bulk.cold_pages,
            **{key: answer[key] for key in _TAKEN_OVER},
        )


_TAKEN_OVER = (
    "seconds",
    "watched_seconds",
    "missed",
    "slowest_seconds",
    "fetched_back_pages",
    "anon_bytes",
    "file_bytes",
    "swapped_out_bytes",
    "swapped_in_bytes",
)
