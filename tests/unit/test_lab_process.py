# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of the lab end when they should, and leave no mounts behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.lab.errors import LabError
from bench.lab.process import end, launch, run_logged, tail
from tests.processes import ended
from tests.waiting import until

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")


def _wait_for_comm(pid: int, name: str) -> None:
    comm = Path(f"/proc/{pid}/comm")
    until(lambda: comm.read_text().strip() == name, f"{pid} is {name}")


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(LabError, match=r"(?s)sh ended with 3.*no luck.*remedy: try again"):
        run_logged(["sh", "-c", "echo no luck; exit 3"], log, timeout=20, remedy="try again")
    assert "+ sh -c" in log.read_text()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"/no/such: \[Errno 2\] No such file"):
        run_logged(["/no/such"], tmp_path / "log", timeout=20)


def test_a_deadline_ends_the_program(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(LabError, match="did not end within"):
        run_logged(["sleep", "60"], tmp_path / "log", timeout=0.5)
    assert time.monotonic() - started < 20


def test_a_program_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        with (tmp_path / "log").open("wb") as output:
            started.append(launch(["sleep", "60"], output=output))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    _wait_for_comm(started[0].pid, "sleep")
    assert started[0].poll() is None
    end(started[0])
    assert started[0].returncode == -signal.SIGTERM


def test_a_program_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from bench.lab.process import launch\n"
        f"out = open({str(tmp_path / 'log')!r}, 'wb')\n"
        "process = launch(['sleep', '60'], output=out)\n"
        "print(process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        _wait_for_comm(pid, "sleep")
        parent.kill()
    until(lambda: ended(pid), "it has died with its parent")


@root_only
def test_mounts_of_a_root_of_its_own_stay_inside(tmp_path: Path) -> None:
    root, shared = tmp_path / "root", tmp_path / "shared"
    shared.mkdir()
    near, far = socket.socketpair()
    code = f"import os; open({str(shared / 'seen')!r}, 'w').write(os.readlink('/proc/self/root'))"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = launch(
            [sys.executable, "-c", code],
            output=output,
            root=root,
            binds=[
                Path(name) for name in ("/usr", "/lib", "/lib64", "/proc", "/etc", sys.base_prefix)
            ]
            + [shared, Path(sys.prefix)],
            pass_fds=[far.fileno()],
        )
        assert process.wait(20) == 0, tail(log)
    assert (shared / "seen").exists()
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    assert list((root / "usr").iterdir()) == []
    near.close()
    far.close()
