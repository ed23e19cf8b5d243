# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that blocks in the kernel, and the flag that ends it; a FIFO without a reader stands
in for a kernel file that blocks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hibprep.errors import HibprepError
from hibprep.reclaim import worker as module
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker, WriterStuckError
from tests.waiting import GENEROUS_SECONDS, until

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[ProcessWorker]:
    made = ProcessWorker(str(tmp_path))
    yield made
    made.close()


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.close()


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has waited for yet has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def blocked_in_open(pid: int) -> bool:
    """Whether the process waits for the other end of a FIFO."""
    try:
        return "fifo" in Path(f"/proc/{pid}/wchan").read_text() or _syscall(pid) == "openat"
    except OSError:
        return False


def _syscall(pid: int) -> str:
    # the second argument of openat and the first of read tell the two waits apart everywhere:
    # the writer reads its requests from descriptor 0, and opens at AT_FDCWD
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return "openat" if len(words) > 1 and words[1].endswith("ffffff9c") else ""


# --- requests -------------------------------------------------------------------------------------


def test_it_writes(worker: ProcessWorker, stop: Stop, tmp_path: Path) -> None:
    file = tmp_path / "knob"
    file.write_text("0\n")
    result = worker.write("/knob", "1", stop)
    assert (result.errno, result.stopped) == (0, False)
    assert result.seconds >= 0
    assert file.read_text().strip() == "1"


def test_one_process_serves_all_requests(worker: ProcessWorker, stop: Stop, tmp_path: Path) -> None:
    (tmp_path / "knob").write_text("0\n")
    worker.write("/knob", "1", stop)
    first = worker.pid
    worker.write("/knob", "2", stop)
    assert first is not None
    assert worker.pid == first


def test_errors_come_as_numbers(worker: ProcessWorker, stop: Stop, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert worker.write("/none", "1", stop).errno == errno.ENOENT
    assert worker.write("/directory", "1", stop).errno == errno.EISDIR
    assert worker.write("/loop", "1", stop).errno == errno.ELOOP
    assert worker.write("/directory/under/none", "1", stop).errno == errno.ENOENT


def test_a_full_device_is_an_error() -> None:
    stop, worker = Stop(), ProcessWorker("/")
    try:
        assert worker.write("/dev/full", "1", stop).errno == errno.ENOSPC
    finally:
        worker.close()
        stop.close()


def test_paging_out_a_process_that_is_none(worker: ProcessWorker, stop: Stop) -> None:
    result = worker.pageout(2**22 + 1, ((0, 4096),), stop)
    assert result.errno == errno.ESRCH
    assert worker.pid is not None


def test_syncing(worker: ProcessWorker, stop: Stop) -> None:
    result = worker.sync(stop)
    assert (result.errno, result.stopped) == (0, False)


def test_nothing_is_begun_once_stopped(worker: ProcessWorker, stop: Stop, tmp_path: Path) -> None:
    (tmp_path / "knob").write_text("0\n")
    stop.request("enough")
    assert worker.write("/knob", "1", stop).stopped
    assert worker.pid is None
    assert (tmp_path / "knob").read_text() == "0\n"


# --- ends -----------------------------------------------------------------------------------------


def test_a_stop_ends_a_blocked_writer(worker: ProcessWorker, stop: Stop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernel")
    seen: list[int] = []

    def interrupt() -> None:
        seen.append(until(lambda: worker.pid or 0, "there is a writer"))
        until(lambda: blocked_in_open(seen[0]), "it blocks")
        stop.request("enough")

    helper = threading.Thread(target=interrupt)
    helper.start()
    begin = time.monotonic()
    result = worker.write("/kernel", "1", stop)
    helper.join(GENEROUS_SECONDS)
    assert result.stopped
    assert time.monotonic() - begin < GENEROUS_SECONDS
    assert not psutil.pid_exists(seen[0])  # waited for: nothing is left of it
    assert worker.pid is None


def test_a_deadline_ends_a_blocked_writer(
    worker: ProcessWorker, stop: Stop, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "kernel")
    stop.within(0.1)
    assert worker.write("/kernel", "1", stop).stopped
    assert stop.timed_out
    assert worker.pid is None


def test_it_can_be_used_again_after_a_stop(worker: ProcessWorker, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernel")
    (tmp_path / "knob").write_text("0\n")
    first, second = Stop(), Stop()
    try:
        first.within(0.05)
        assert worker.write("/kernel", "1", first).stopped
        assert worker.write("/knob", "1", second).errno == 0
        assert worker.write("/none", "1", second).errno == errno.ENOENT
    finally:
        first.close()
        second.close()


def test_closing_ends_it(stop: Stop, tmp_path: Path) -> None:
    worker = ProcessWorker(str(tmp_path))
    worker.write("/none", "1", stop)
    pid = worker.pid
    assert pid is not None
    worker.close()
    assert not psutil.pid_exists(pid)
    worker.close()


def test_a_writer_that_dies_is_an_error(worker: ProcessWorker, stop: Stop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernel")

    def kill() -> None:
        pid = until(lambda: worker.pid or 0, "there is a writer")
        until(lambda: blocked_in_open(pid), "it blocks")
        os.kill(pid, signal.SIGKILL)

    helper = threading.Thread(target=kill)
    helper.start()
    with pytest.raises(HibprepError, match="ended by itself with status -9"):
        worker.write("/kernel", "1", stop)
    helper.join(GENEROUS_SECONDS)
    assert worker.pid is None


def test_a_writer_that_died_between_requests_is_replaced(
    worker: ProcessWorker, stop: Stop, tmp_path: Path
) -> None:
    (tmp_path / "knob").write_text("0\n")
    worker.write("/knob", "1", stop)
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), "it has ended")
    assert worker.write("/knob", "2", stop).errno == 0
    assert worker.pid != pid


def test_a_writer_that_cannot_be_killed_is_told(
    worker: ProcessWorker, stop: Stop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one in a reclaim that looks at no signal: here its kill is kept from it."""
    (tmp_path / "knob").write_text("0\n")
    worker.write("/knob", "1", stop)
    process = worker._process
    assert process is not None
    monkeypatch.setattr(module, "KILL_DEADLINE_SECONDS", 0.05)
    # stopped, it does not see that its requests have ended either
    process.send_signal(signal.SIGSTOP)
    kill = process.kill
    monkeypatch.setattr(process, "kill", lambda: None)
    try:
        with pytest.raises(WriterStuckError, match="still in the kernel") as caught:
            worker.close()
        assert "freezer" in str(caught.value)
    finally:
        kill()
        process.wait(GENEROUS_SECONDS)


_PARENT = """
import sys
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker
worker = ProcessWorker(sys.argv[1])
worker.write("/none", "1", Stop())
print(worker.pid, flush=True)
worker.write("/kernel", "1", Stop())
"""


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "kernel")
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(REPOSITORY)),
    ) as parent:
        try:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            until(lambda: blocked_in_open(pid), "it blocks")
        finally:
            parent.kill()
    until(lambda: gone(pid), "the writer has followed its parent")


def test_ctrl_c_is_not_for_it(worker: ProcessWorker, stop: Stop) -> None:
    """The terminal signals the foreground process group; the writer is in another session."""
    worker.write("/none", "1", stop)
    pid = worker.pid
    assert pid is not None
    assert os.getpgid(pid) == pid != os.getpgid(0)
    assert os.getsid(pid) == pid != os.getsid(0)


# --- the flag -------------------------------------------------------------------------------------


def test_the_first_reason_stays(stop: Stop) -> None:
    assert not stop.requested()
    stop.request("first")
    stop.request("second")
    assert stop.requested()
    assert stop.reason == "first"
    assert not stop.timed_out
    assert stop.wait(GENEROUS_SECONDS)


def test_a_deadline_raises_it(stop: Stop) -> None:
    assert stop.remaining_seconds() is None
    stop.within(0.02)
    assert stop.wait(GENEROUS_SECONDS)
    assert stop.timed_out
    assert stop.remaining_seconds() == 0
    assert "time-out" in stop.reason


def test_waiting_without_a_stop(stop: Stop) -> None:
    assert not stop.wait(0.01)
    assert not stop.wait(0)
    stop.within(GENEROUS_SECONDS)
    assert not stop.wait(0.01)
    assert not stop.timed_out


def test_a_signal_handler_may_raise_it(stop: Stop) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: stop.request("a signal"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert stop.wait(GENEROUS_SECONDS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stop.reason == "a signal"


def test_another_thread_may_raise_it(stop: Stop) -> None:
    timer = threading.Timer(0.02, stop.request, ["a thread"])
    timer.start()
    assert stop.wait(GENEROUS_SECONDS)
    timer.join()
    assert stop.reason == "a thread"


def test_closing_twice_is_fine() -> None:
    stop = Stop()
    stop.close()
    stop.close()
