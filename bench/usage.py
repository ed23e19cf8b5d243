# SPDX-License-Identifier: LGPL-2.1-or-later
"""What processes take: a command from its start to its end, or a running one for a while."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.lab.paths import REPOSITORY
from bench.load import CannotMeasure

TIMEOUT_SECONDS = 120.0

# The peak that the kernel keeps for a process has that of the one in it that was forked, before the
# command was executed. Of us that would be more than of hibprep; of this one it is some 10 MiB,
# which is less than any Python program has.
_LAUNCHER = """
import json, os, sys, time
null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
begin = time.monotonic()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[null])
_, status, used = os.wait4(pid, 0)
print(json.dumps({
    "code": os.waitstatus_to_exitcode(status),
    "wall_seconds": time.monotonic() - begin,
    "cpu_seconds": used.ru_utime + used.ru_stime,
    "peak_rss_bytes": used.ru_maxrss << 10,
    "context_switches": used.ru_nvcsw + used.ru_nivcsw,
}))
"""


# --- a command ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One command from start to end, with the children that it waited for. `peak_rss_bytes` is that
    of the largest of these processes, shared pages included; not their sum."""

    what: str
    peak_rss_bytes: int
    cpu_seconds: float
    context_switches: int
    wall_seconds: float


def run_once(
    what: str,
    argv: Sequence[str],
    *,
    codes: Iterable[int] = (0,),
    timeout: float = TIMEOUT_SECONDS,
) -> Run:
    """Run a command to its end; CannotMeasure in its own words when it ends with another code."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *argv],
        cwd=REPOSITORY,
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the command ends with its launcher
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"{what}: no end within {timeout:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        last = err.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise CannotMeasure(f"{what}: {last[0]}")
    found = json.loads(out)
    code = found.pop("code")
    if code not in codes:
        raise CannotMeasure(f"{what}: {err.strip() or f'exit code {code}'}")
    return Run(what=what, **found)


# --- a running process ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """A running process with all its descendants, over `seconds`.

    Sizes are those at the end: private bytes are in no other process, PSS shares the others out
    (less is left to this process where other programs use the same libraries), RSS counts them in
    each. CPU time is told by the kernel in hundredths of a second. Wake-ups are voluntary context
    switches: whoever goes to sleep has been woken. Who is preempted was not, and how often that
    happens is the machine's affair.
    """

    what: str
    seconds: float
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    cpu_seconds: float
    wakeups_per_second: float


def watch(pid: int, seconds: float, what: str = "") -> Watched:
    """What a process takes in so many seconds; CannotMeasure when it is not there until the end."""
    try:
        process = psutil.Process(pid)
        name = what or f"{process.name()} ({pid})"
        begin, cpu_before, before = time.monotonic(), _cpu_seconds(process), _switches(process)
        time.sleep(seconds)
        after, cpu_after, end = _switches(process), _cpu_seconds(process), time.monotonic()
        sizes = [each for member in _family(process) if (each := _sizes(member))]
        there = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        there = False
    except psutil.AccessDenied:
        raise CannotMeasure(f"process {pid} is another user's: be root") from None
    if not there:
        raise CannotMeasure(f"process {pid} is not there, or not any more")
    return Watched(
        what=name,
        seconds=end - begin,
        rss_bytes=sum(rss for rss, _, _ in sizes),
        pss_bytes=sum(pss for _, pss, _ in sizes),
        private_bytes=sum(private for _, _, private in sizes),
        cpu_seconds=cpu_after - cpu_before,
        wakeups_per_second=switches_between(before, after) / (end - begin),
    )


def switches_between(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """Wake-ups, by thread; one that is new has had all of its own since `before`."""
    return sum(count - before.get(thread, 0) for thread, count in after.items())


def _family(process: psutil.Process) -> Iterator[psutil.Process]:
    yield process
    yield from process.children(recursive=True)


def _sizes(process: psutil.Process) -> tuple[int, int, int] | None:
    try:
        found = process.memory_full_info()
    except psutil.NoSuchProcess:  # a child that has ended meanwhile
        return None
    return found.rss, found.pss, found.uss


def _cpu_seconds(process: psutil.Process) -> float:
    """Of the family, and of those members that have ended and were waited for."""
    total = 0.0
    for member in _family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            used = member.cpu_times()
            total += used.user + used.system + used.children_user + used.children_system
    return total


def _switches(process: psutil.Process) -> dict[int, int]:
    # psutil's num_ctx_switches() is of the first thread alone.
    found: dict[int, int] = {}
    for member in _family(process):
        for task in Path(f"/proc/{member.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                found[int(task.name)] = parse_switches((task / "status").read_text())
    return found


def parse_switches(status: str) -> int:
    """Voluntary context switches in the status file of a thread."""
    return sum(
        int(line.split()[1])
        for line in status.splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )
