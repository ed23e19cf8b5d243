# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watching services at rest: the daemon of this checkout, and any other, each started for that."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.apart import RUN_TIME, STATE, apart
from bench.lab.paths import REPOSITORY
from bench.lab.process import end, launch
from bench.load import CALM_SECONDS, CannotMeasure
from bench.usage import Watched, watch
from hibprep import hookclient
from hibprep.status import Status
from tests.bus.fakelogin1 import Behaviour, FakeLogin1
from tests.bus.privatebus import running_bus

DAEMON = "hibprep run"
_GRACE_SECONDS = 10.0
_LATER_SECONDS = 7 * 86400  # the longest delay that the configuration takes
# The default policy, and nothing ever to do.
CONFIGURATION = f"""\
[daemon]
policy = "idle"
[idle]
after_seconds = {_LATER_SECONDS}
sync_after_seconds = {_LATER_SECONDS}
cache_after_seconds = {_LATER_SECONDS}
cold_anon_after_seconds = {_LATER_SECONDS}
anon_after_seconds = {_LATER_SECONDS}
"""


# --- any service ----------------------------------------------------------------------------------


@contextlib.contextmanager
def service(
    name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs, with what it says in `log`. It is ended politely, or when we end, and
    its children with it."""
    try:
        with log.open("wb") as output:
            process = launch(argv, output=output, environment=environment)
    except OSError as error:
        raise CannotMeasure(f"{name}: {error.strerror}") from error
    try:
        yield process
    finally:
        end(process, _GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session is its own


def settle(name: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Let the start be over; CannotMeasure with its last words when it ends instead."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise CannotMeasure(f"{name}: ended: {last_words(log.read_text(errors='replace'))}")


def last_words(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"


def watch_service(
    name: str, argv: Sequence[str], folder: Path, *, settle_seconds: float, seconds: float
) -> Watched:
    """Start it, let it settle, watch it and end it."""
    log = folder / "log"
    with service(name, argv, log) as process:
        settle(name, process, log, settle_seconds)
        return watch(process.pid, seconds, name)


# --- the daemon -----------------------------------------------------------------------------------


def watch_daemon(folder: Path, *, settle_seconds: float, seconds: float) -> Watched:
    """`hibprep run` on this machine's kernel, with nothing to do.

    Its state and its run-time folder are in `folder`, so that neither the history nor the lock of
    the machine is touched; the system bus and the logind that it hears are ours, with one desktop
    session that is in use.
    """
    if os.geteuid() != 0:
        raise CannotMeasure(f"{DAEMON}: takes root")
    if shutil.which("dbus-daemon") is None:
        raise CannotMeasure(f"{DAEMON}: no bus for it: apt-get install dbus-daemon")
    state, run_time, log = folder / "state", folder / "run", folder / "log"
    configuration = folder / "hibprep.toml"
    configuration.write_text(CONFIGURATION)
    program = (sys.executable, "-c", "from hibprep.cli import main; main()")
    argv = apart(
        {STATE: state, RUN_TIME: run_time}, [*program, "run", "--config", str(configuration)]
    )
    with running_bus(folder) as bus, FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2")
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
        }
        with service(DAEMON, argv, log, environment) as process:
            _wait_for_logind(process, run_time / "control", log)
            settle(DAEMON, process, log, settle_seconds)
            found = watch(process.pid, seconds, DAEMON)
    if process.returncode != 0:
        raise CannotMeasure(f"{DAEMON}: exit code {process.returncode}: {_words_of(log)}")
    if (state / "history.jsonl").exists():
        raise CannotMeasure(f"{DAEMON}: was not at rest: {_words_of(log)}")
    return found


def _wait_for_logind(process: subprocess.Popen[bytes], control: Path, log: Path) -> None:
    """Until it has heard logind: before that it is not the daemon of a machine that is used."""
    deadline = time.monotonic() + CALM_SECONDS
    while time.monotonic() < deadline:
        settle(DAEMON, process, log, 0.1)
        with contextlib.suppress(hookclient.NoDaemon, hookclient.DaemonError):
            answer = hookclient.request({"do": "status"}, path=str(control), seconds=CALM_SECONDS)
            sources = Status.from_plain(answer["status"]).sources
            if any(source.name == "logind" and source.works for source in sources):
                return
    raise CannotMeasure(f"{DAEMON}: heard no logind within {CALM_SECONDS:g} s: {_words_of(log)}")


def _words_of(log: Path) -> str:
    return last_words(log.read_text(errors="replace"))
