# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the guest: makes one thing happen, and notes how long a workload's passes take meanwhile.

Standard library only. The workload itself times its passes and keeps the last one in its state
file; here they are collected, for the file forgets each with the next. The slowest is in the file
since the last reset, so that it is known even if its pass was missed. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

RECLAIM_FILE = "/sys/fs/cgroup/memory.reclaim"
# Far below the period of a pass, and little work for an emulated processor.
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
_MCL_CURRENT_AND_FUTURE = 3
_COUNTERS = ("pgsteal_anon", "pgsteal_file", "pswpout", "pswpin")


class Passes:
    """What was seen of a workload's passes in its state file; `missed` came between two looks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = int(self._state()["passes"])
        self.seconds: list[float] = []
        self.missed = 0
        self.slowest_seconds = 0.0

    @property
    def count(self) -> int:
        """How many have ended since this began."""
        return len(self.seconds) + self.missed

    def look(self) -> None:
        """Take over the pass that has ended since the last look, if one has."""
        state = self._state()
        new = int(state["passes"]) - self._last
        if new > 0:
            self._last += new
            self.missed += new - 1
            self.seconds.append(float(state["last_pass_seconds"]))
            self.slowest_seconds = float(state["slowest_pass_seconds"])

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_text())
        return found


class Deed(threading.Thread):
    """What is to happen, in a thread of its own: a command, one write, or nothing for a while."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self._options = options
        self.seconds = 0.0
        self.error = ""
        self.report: Any = None

    def run(self) -> None:
        """Do it; its length is in `seconds`."""
        begin = time.monotonic()
        try:
            if self._options.command:
                self._command()
            elif self._options.write:
                self._write()
            else:
                time.sleep(self._options.idle)
        except (OSError, ValueError) as problem:
            self.error = str(problem)
        self.seconds = time.monotonic() - begin

    def _command(self) -> None:
        done = subprocess.run(self._options.command, capture_output=True, text=True, check=False)
        # 3 is hibprep's "partly done": what it freed is counted all the same.
        if done.returncode not in (0, 3):
            self.error = done.stderr.strip() or f"exit code {done.returncode}"
        elif done.stdout:
            self.report = json.loads(done.stdout)

    def _write(self) -> None:
        handle = os.open(RECLAIM_FILE, os.O_WRONLY)
        try:
            os.write(handle, self._options.write.encode())
        except BlockingIOError:
            pass  # less than was asked for gave way
        finally:
            os.close(handle)


def counters() -> list[int]:
    """The kernel's counts of pages that were freed and swapped."""
    with Path("/proc/vmstat").open() as lines:
        found = dict(line.split() for line in lines)
    return [int(found.get(name, 0)) for name in _COUNTERS]


def refaults(pid: int) -> int | None:
    """Anonymous pages that the cgroup of a process had to fetch back so far."""
    try:
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                path = f"/sys/fs/cgroup{line[3:]}/memory.stat"
                stat = dict(each.split() for each in Path(path).read_text().splitlines())
                return int(stat["workingset_refault_anon"])
    except (OSError, KeyError, ValueError):
        return None
    return None


def witness(options: argparse.Namespace) -> dict[str, Any]:
    """Do the deed and watch the passes, until some time and one whole pass after its end."""
    path = Path(options.state)
    pid = int(json.loads(path.read_text())["pid"])
    passes, deed = Passes(path), Deed(options)
    before, fetched_before, began = counters(), refaults(pid), time.monotonic()
    deed.start()
    while deed.is_alive():
        time.sleep(LOOK_SECONDS)
        passes.look()
    after = counters()
    # The pass that is on its way may have begun before the end; the next one has not.
    ended, enough = time.monotonic(), passes.count + 2
    while time.monotonic() < ended + options.after or passes.count < enough:
        if time.monotonic() > ended + options.after + PATIENCE_SECONDS:
            deed.error = deed.error or f"no pass in {PATIENCE_SECONDS:.0f} s"
            break
        time.sleep(LOOK_SECONDS)
        passes.look()
    watched, fetched = time.monotonic() - began, refaults(pid)
    page = os.sysconf("SC_PAGE_SIZE")
    anon, file, out, back = (new - old for new, old in zip(after, before, strict=True))
    return {
        "seconds": deed.seconds,
        "watched_seconds": watched,
        "passes": [round(each, 6) for each in passes.seconds],
        "missed": passes.missed,
        "slowest_seconds": passes.slowest_seconds,
        "anon_bytes": anon * page,
        "file_bytes": file * page,
        "swapped_out_bytes": out * page,
        "swapped_in_bytes": back * page,
        "fetched_back_pages": (
            None if fetched is None or fetched_before is None else fetched - fetched_before
        ),
        "error": deed.error,
        "report": deed.report,
    }


def main() -> None:
    """``witness.py --state FILE [--idle SECONDS | --write WORDS | COMMAND …]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", required=True, help="the state file of the workload")
    parser.add_argument("--after", type=float, default=2.0, help="seconds to go on watching")
    parser.add_argument("--idle", type=float, default=0.0, help="let nothing happen for so long")
    parser.add_argument("--write", default="", help=f"what to write to {RECLAIM_FILE}")
    parser.add_argument("command", nargs="*")
    # Reclaim is not to take the one who watches; without the right to it, it goes without.
    ctypes.CDLL(None).mlockall(_MCL_CURRENT_AND_FUTURE)
    json.dump(witness(parser.parse_args()), sys.stdout)


if __name__ == "__main__":
    main()
