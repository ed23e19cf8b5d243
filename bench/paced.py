# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that does the same piece of work at a fixed rate; run in the guest, standard library
only.

Each piece goes over a working set (a byte of every page) and computes a little. A piece begins when
it is due; those that were due while one took too long are left out, so that the rate falls when the
program is slowed. On SIGUSR1 a section ends and the next one begins: what each section came to is
in the state file. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

PAGE = mmap.PAGESIZE
COMPUTED_BYTES = 1 << 20
SIGNALS = {signal.SIGUSR1, signal.SIGTERM}


class Section:
    """What was done in one stretch of time."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._times: list[float] = []

    def add(self, seconds: float) -> None:
        """One more piece, and how long it took."""
        self._times.append(seconds)

    def figures(self) -> dict[str, float]:
        """So far: pieces, the seconds of the section, and of the pieces."""
        return {
            "pieces": len(self._times),
            "seconds": time.monotonic() - self._begun,
            "piece_seconds": sum(self._times) / len(self._times) if self._times else 0.0,
            "slowest_seconds": max(self._times, default=0.0),
        }


class Program:
    """The working set, and the work on it."""

    def __init__(self, size_bytes: int, period: float, state: Path) -> None:
        self._period = period
        self._path = state
        self._memory = mmap.mmap(-1, max(PAGE, size_bytes))
        block = os.urandom(1 << 20)
        for offset in range(0, len(self._memory), len(block)):
            piece = block[: len(self._memory) - offset]
            self._memory[offset : offset + len(piece)] = piece
        self._view = memoryview(self._memory)
        self._sections: list[dict[str, float]] = []

    def piece(self) -> float:
        """Do the work once; how long it took."""
        begun = time.monotonic()
        self._view[::PAGE].tobytes()
        zlib.crc32(self._view[: min(COMPUTED_BYTES, len(self._view))])
        return time.monotonic() - begun

    def run(self) -> None:
        """Until SIGTERM."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        section = Section()
        self._save()
        due = time.monotonic()
        while True:
            caught = signal.sigtimedwait(SIGNALS, max(0.0, due - time.monotonic()))
            if caught is not None and caught.si_signo == signal.SIGTERM:
                return
            if caught is not None:
                self._sections.append(section.figures())
                section = Section()
                self._save()
                continue
            section.add(self.piece())
            now = time.monotonic()
            missed = int((now - due) / self._period)
            due += (missed + 1) * self._period

    def _save(self) -> None:
        state: dict[str, Any] = {"pid": os.getpid(), "sections": self._sections}
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_text(json.dumps(state) + "\n")
        temporary.replace(self._path)


def main() -> None:
    """``paced.py --bytes N --period SECONDS --state FILE``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--period", type=float, required=True)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args()
    Program(options.bytes, options.period, options.state).run()


if __name__ == "__main__":
    main()
