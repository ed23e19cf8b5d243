# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running hibprep on the kernel of this machine, and stopping it in the middle.

Its history is kept apart in a mount namespace. `bench/abort.py` measures with these parts, and
`tests/kernel` looks with them at what a stop leaves behind; what there is to reclaim is made by
`bench/load.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.apart import STATE, apart
from bench.lab.paths import REPOSITORY
from bench.load import CALM_SECONDS, CannotMeasure

_BUSY_ELSEWHERE = "another hibprep is at work"
_AT_WORK_SECONDS = 1.0
_SYSCALL_READ = "0"  # x86-64; elsewhere "in the kernel" is told by the state alone

# Only to know when the time-out began: --timeout counts from the beginning of the run.
_PROGRAM = """
import os, sys, time
from hibprep.reclaim.base import Stop
within = Stop.within
def told(self, seconds):
    os.write(int(os.environ["HIBPREP_BENCH_FD"]), f"{time.monotonic()}\\n".encode())
    within(self, seconds)
if "HIBPREP_BENCH_FD" in os.environ:
    Stop.within = told
from hibprep.cli import main
main()
"""
_CLI = "from hibprep.cli import main; main()"


# --- running hibprep ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """One call of hibprep that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object on its standard output."""
        found = json.loads(self.stdout)
        if not isinstance(found, dict):
            raise CannotMeasure(f"no report: {self.stdout!r}")
        return found


class Call:
    """A running `hibprep ARGUMENTS`, with its history in a folder of its own.

    The mount of that folder is in a mount namespace that only this call sees, so that the history
    of the machine is not touched; all else is the machine's own.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, time_within: bool = False
    ) -> None:
        self._folder = folder
        self._number = len(list(folder.glob("*.out")))
        environment = dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1")
        self._clock_read = -1
        passed: tuple[int, ...] = ()
        if time_within:
            self._clock_read, end = os.pipe()
            environment["HIBPREP_BENCH_FD"] = str(end)
            passed = (end,)
        program = [sys.executable, "-c", _PROGRAM if time_within else _CLI, *arguments]
        with self._path("out").open("wb") as out, self._path("err").open("wb") as err:
            self.process = subprocess.Popen(
                apart({STATE: folder / "history"}, program),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                pass_fds=passed,
                start_new_session=True,
            )
        for descriptor in passed:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """The process of hibprep: neither unshare nor the shell leaves one behind."""
        return self.process.pid

    def writer(self) -> psutil.Process | None:
        """The child that writes to the kernel, when there is one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "hibprep.kernel.writer" in " ".join(child.cmdline()):
                        return child
        return None

    def wait_for_writer(self, seconds: float = CALM_SECONDS) -> psutil.Process | None:
        """The writer, as soon as it is there; None when the run ends without."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            found = self.writer()
            if found is not None:
                return found
            time.sleep(0.005)
        return None

    def within_began(self) -> float | None:
        """When the time-out of the run began to count (CLOCK_MONOTONIC); the call has ended."""
        if self._clock_read < 0:
            return None
        data = os.read(self._clock_read, 64)
        os.close(self._clock_read)
        self._clock_read = -1
        return float(data.split()[0]) if data else None

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(CALM_SECONDS)

    def done(self, seconds: float = CALM_SECONDS) -> Done:
        """Wait for its end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise CannotMeasure(f"hibprep did not end within {seconds:g} s") from None
        return Done(
            code, self._path("out").read_text(), self._path("err").read_text(errors="replace")
        )

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._number}.{kind}"


def run(arguments: Sequence[str], folder: Path, seconds: float = CALM_SECONDS * 2) -> Done:
    """`hibprep ARGUMENTS` to its end, after the end of whoever else is at it."""
    deadline = time.monotonic() + seconds
    while True:
        done = Call(arguments, folder).done(seconds)
        if _BUSY_ELSEWHERE not in done.stderr or time.monotonic() >= deadline:
            return done
        time.sleep(0.5)


# --- stopping it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopped:
    """One stop. `seconds` is from the signal, or the end of the time-out, to the end of the
    process, its report and the last setting put back included."""

    how: str
    seconds: float
    code: int
    stage: str
    in_kernel: bool | None  # whether the writer was at work when the signal came
    writer_pid: int
    ending: str


def in_kernel(pid: int) -> bool:
    """Whether the writer is at a request rather than waiting for one."""
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    waiting = words[:2] == [_SYSCALL_READ, "0x0"]
    return not waiting


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends in time. Popen.wait() with a time-out looks only every 50 ms."""
    if process.poll() is not None:
        return True
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def stop_once(
    how: str,
    delay: float,
    folder: Path,
    arguments: Sequence[str] = ("prepare", "--target", "min"),
    *,
    at_work: bool = False,
) -> tuple[Stopped | None, Done]:
    """Begin a run and stop it `delay` seconds after its writer has appeared; None when it had
    ended by itself before that. `how` is SIGINT, SIGTERM, or timeout (counted from its start).
    With `at_work` a signal waits for a moment in which the writer is in the kernel."""
    whole = [*arguments, "--json"]
    if how == "timeout":
        whole += ["--timeout", f"{max(0.01, delay):.3f}"]
    call = Call(whole, folder, time_within=how == "timeout")
    writer = call.wait_for_writer()
    working: bool | None = None
    begin: float | None
    if how == "timeout":
        _wait(call.process, CALM_SECONDS)
        end = time.monotonic()
        started = call.within_began()
        begin = None if started is None else started + max(0.01, delay)
    else:
        _wait(call.process, delay)
        working = in_kernel(writer.pid) if writer else None
        deadline = time.monotonic() + _AT_WORK_SECONDS
        while at_work and writer and not working and time.monotonic() < deadline:
            working = in_kernel(writer.pid)
        begin = time.monotonic()
        if call.process.poll() is None:
            call.process.send_signal(signal.Signals[how])
        _wait(call.process, CALM_SECONDS)
        end = time.monotonic()
    done = call.done()
    if done.code not in (3, 130) or begin is None:
        return None, done
    report = done.report
    if report["ending"] not in ("interrupted", "deadline"):
        return None, done
    steps = report["steps"]
    return (
        Stopped(
            how=how,
            seconds=end - begin,
            code=done.code,
            stage=steps[-1]["stage"] if steps else "",
            in_kernel=working,
            writer_pid=writer.pid if writer else 0,
            ending=report["ending"],
        ),
        done,
    )
