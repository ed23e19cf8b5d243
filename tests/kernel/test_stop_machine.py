# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a stop leaves behind, whenever it comes: a report, no writer, and every setting as it was.

How soon it ends is measured by `python -m bench abort`; here only the behaviour is judged.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from bench.abort import HOWS, seeded
from bench.load import Filler, make_cache, temporary_swap
from bench.stopping import Call, in_kernel, run, stop_once
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.vmstat import read_vmstat
from tests.kernel.conftest import JOURNALS, ROOT, journals, settings
from tests.waiting import until

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(600)]
MIB = 1 << 20
LONGEST_SECONDS = 1.0
WRITER = "hibprep.kernel.writer"


@pytest.fixture
def busy(root: None) -> None:
    """Memory enough for a run that is worth stopping."""
    if read_meminfo(ROOT).available_bytes < 2 << 30:
        pytest.skip("less than 2 GiB of memory are available")


def ended(pid: int) -> bool:
    """Whether that writer is no more; its number may be another process's by now."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or WRITER not in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return True


def journals_of(pid: int) -> list[str]:
    return [name for name in journals() if name.startswith(f"knobs-{pid}-")]


@pytest.mark.must
def test_stops_leave_nothing_behind(
    busy: None, workspace: Path, unchanged: dict[str, str], swap_file: Path
) -> None:
    chance = seeded(2)
    longest, stops, tries = LONGEST_SECONDS, 0, 0
    with Filler(512 * MIB) as filler:
        while stops < 12:
            tries += 1
            assert tries < 60, "runs end before they can be stopped"
            make_cache(workspace, 128 * MIB)
            filler.touch()
            how = HOWS[stops % len(HOWS)]
            stopped, done = stop_once(
                how, chance.uniform(0, longest), workspace, at_work=bool(stops % 2)
            )
            if stopped is None:
                assert done.code in (0, 1, 3), done.stderr
                longest = max(0.1, longest * 0.8)
                continue
            stops += 1
            assert stopped.code == (3 if how == "timeout" else 130)
            assert stopped.ending == ("deadline" if how == "timeout" else "interrupted")
            report = done.report
            assert report["reason"]
            if how != "timeout":
                assert how in report["reason"]
            assert ended(stopped.writer_pid)
            assert settings() == unchanged
        assert filler.intact()


def test_nothing_is_reclaimed_after_a_stop(
    busy: None, workspace: Path, unchanged: dict[str, str], swap_file: Path
) -> None:
    """Other programs may be reclaimed from at any time, but not by the hundreds of MiB."""
    with Filler(512 * MIB) as filler:
        stopped = None
        for delay in (1.0, 0.6, 0.3, 0.1):
            make_cache(workspace, 128 * MIB)
            filler.touch()
            stopped, _ = stop_once("SIGTERM", delay, workspace, at_work=True)
            if stopped is not None:
                break
        assert stopped is not None
        before = read_vmstat(ROOT)
        quiet_until = time.monotonic() + 1.0
        until(lambda: time.monotonic() > quiet_until, "a second has passed")
        after = read_vmstat(ROOT)
    assert (after.pgsteal_anon - before.pgsteal_anon) * 4096 < 16 * MIB


def test_a_stop_in_the_first_moments(workspace: Path, unchanged: dict[str, str]) -> None:
    """Before hibprep listens to signals it has changed nothing, and just ends."""
    chance = seeded(3)
    for number in (signal.SIGINT, signal.SIGTERM) * 6:
        call = Call(["prepare", "--target", "min", "--json"], workspace)
        until(partial(begun, call), "hibprep has been started")
        let_run(call, chance.uniform(0, 0.3))
        call.process.send_signal(number)
        done = call.done()
        # 0, 3: it was quicker. Negative: it had not begun to listen, as any other program
        # ("init_import_site", "init_sys_streams", …: not a line of hibprep has been run by then)
        in_python_itself = done.code == 1 and "Fatal Python error: init_" in done.stderr
        assert in_python_itself or done.code in (0, 3, 130, -number), (done.code, done.stderr)
        if done.code == 130 and done.stdout:
            assert done.report["ending"] == "interrupted"
        assert journals_of(call.pid) == []
        assert settings() == unchanged


def let_run(call: Call, seconds: float) -> None:
    """So long, or until it has ended by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        call.process.wait(seconds)


def at_work_or_over(call: Call, writer: int) -> bool:
    return in_kernel(writer) or call.process.poll() is not None


def begun(call: Call) -> bool:
    """Whether the process has become hibprep (before, it is unshare and a shell)."""
    try:
        return "hibprep.cli" in " ".join(psutil.Process(call.pid).cmdline()[:3])
    except psutil.NoSuchProcess:
        return True


@pytest.mark.must
def test_after_a_kill_the_next_start_puts_everything_back(
    busy: None, workspace: Path, unchanged: dict[str, str], swap_file: Path
) -> None:
    chance = seeded(4)
    left_behind = in_the_kernel = 0
    with Filler(512 * MIB) as filler:
        for number in range(24):
            make_cache(workspace, 32 * MIB)
            filler.touch()
            call = Call(["prepare", "--target", "min", "--json"], workspace)
            writer = call.wait_for_writer() if number % 4 else None
            let_run(call, chance.uniform(0, LONGEST_SECONDS / 2))
            if writer and number % 2:
                until(partial(at_work_or_over, call, writer.pid), "the writer is at work")
            writer = writer or call.writer()
            in_the_kernel += bool(writer and in_kernel(writer.pid))
            call.kill()
            if writer is not None:
                until(partial(ended, writer.pid), "the writer has followed")
            left_behind += bool(journals_of(call.pid))
            changed = settings() != unchanged
            assert not changed or journals_of(call.pid), "what is changed is on record"
            again = run(["plan", "--json"], workspace)
            assert again.code == 0, again.stderr
            assert settings() == unchanged
            assert journals_of(call.pid) == []
        assert filler.intact()
    assert in_the_kernel, "no kill has met a writer at work"
    if JOURNALS.exists() and Path("/sys/devices/system/node/node0/reclaim").exists():
        assert left_behind, "no kill has met a changed setting"


def test_the_next_report_says_what_was_put_back(
    busy: None, workspace: Path, unchanged: dict[str, str], swap_file: Path, node_reclaim: None
) -> None:
    if unchanged["/proc/sys/vm/min_unmapped_ratio"] == "0":
        pytest.skip("vm.min_unmapped_ratio is 0 here: there is nothing to change")
    call = Call(["prepare", "--target", "min", "--json"], workspace)
    with Filler(512 * MIB):
        until(
            lambda: settings() != unchanged or call.process.poll() is not None, "a setting changes"
        )
        call.kill()
    if settings() == unchanged:
        pytest.skip("the run was over before it could be killed")
    report = run(["reclaim", "1M", "--type", "file", "--json"], workspace).report
    assert settings() == unchanged
    assert any("min_unmapped_ratio put back" in note for note in report["notes"])


def test_our_swap_file_is_taken_away_when_a_test_fails(root: None, tmp_path: Path) -> None:
    kept = Path("/proc/swaps").read_text()
    folder = Path.home() / ".cache" / "hibprep" / "swap-of-a-failing-test"
    with pytest.raises(ValueError, match="failed"), temporary_swap(16 * MIB, folder):
        raise ValueError("failed")
    assert Path("/proc/swaps").read_text() == kept
    assert not list(folder.glob("*.swap"))
    (folder / "lock").unlink()
    folder.rmdir()
