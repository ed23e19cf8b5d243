# SPDX-License-Identifier: LGPL-2.1-or-later
"""`memory.swap.reclaim`, after the text of the patches "Opportunistic memory reclaim" (RFC v2,
linux-mm, October 2020): what it says is quoted where it is tested, each by a documented command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import hibprep.machine
import hibprep.session
from hibprep import cli
from hibprep.errors import ExitCode
from hibprep.model import MACHINE, BackendName, Kind, Scope, ScopeKind, Stage, Step
from hibprep.reclaim.base import Budget, Status
from tests.fakes.harness import FakeWorker, Harness
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap
from tests.fakes.swapreclaim import add_swap_reclaim
from tests.fakes.texts import CGROUPS

FILE = f"{CGROUPS}/memory.swap.reclaim"
DOCUMENT = Path(__file__).parents[2] / "docs/coldpgs.md"
Capture = pytest.CaptureFixture[str]


def kernel(**changes: object) -> FakeMachine:
    """5.9 with the patches: no memory.reclaim, no multi-gen LRU."""
    settings: dict[str, object] = {
        "total_bytes": 4 * GIB,
        "kernel": (5, 9),
        "cgroups": [
            FakeCgroup("/user.slice", anon=[AnonSet(GIB)], file_bytes=512 * MIB),
            FakeCgroup("/system.slice", anon=[AnonSet(256 * MIB)], file_bytes=256 * MIB),
        ],
        "swaps": [FakeSwap("/dev/vda2", 8 * GIB)],
        "lru_gen": None,
        "hibernation": False,
    }
    machine = FakeMachine(**(settings | changes))  # type: ignore[arg-type]
    add_swap_reclaim(machine)
    return machine


class Box:
    """A machine, and documented commands on it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp_path, self.monkeypatch = tmp_path, monkeypatch
        self.put(kernel())

    def put(self, machine: FakeMachine) -> None:
        self.machine = machine
        root = FakeRoot(machine, self.tmp_path)
        self.worker = FakeWorker(root, machine)
        self.monkeypatch.setattr(hibprep.session, "ProcessWorker", lambda *_: self.worker)
        self.monkeypatch.setattr(hibprep.machine, "KernelRoot", lambda *_: root)

    def run(self, line: str, more: str = "") -> int:
        assert line in DOCUMENT.read_text()
        return cli.run([*shlex.split(f"{line} {more}")[1:], "--root", str(self.tmp_path)])

    def amounts(self, path: str = FILE) -> list[int]:
        return [int(text) for each, text in self.worker.requests if each == path]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, monkeypatch)


def test_a_number_reclaims_that_many_bytes(box: Box, capsys: Capture) -> None:
    """ "Writing a number to this file forces a memcg to reclaim memory up to that number" """
    free = box.machine.free_bytes
    assert box.run("hibprep reclaim 512M --backend swapreclaim") == ExitCode.DONE
    assert box.machine.free_bytes - free == 512 * MIB
    assert sum(box.amounts()) == 512 * MIB
    assert capsys.readouterr().out == f"reclaimed {512 * MIB} bytes (512.0 MiB)\n"


def test_max_is_as_much_as_possible(box: Box) -> None:
    """ "special value "max" means "as much memory as possible"; by dropping clean page cache pages,
    swapping out anonymous pages, etc." """
    assert box.run("hibprep reclaim max --backend swapreclaim") == ExitCode.DONE
    for cgroup in box.machine.by_path.values():
        assert (cgroup.anon_bytes, cgroup.file_bytes) == (0, 0)
    assert box.machine.swap_used_bytes == GIB + 256 * MIB
    assert all(amount <= 256 * MIB for amount in box.amounts())


def test_one_cgroup(box: Box) -> None:
    """ "This feature is provided by adding a new file to each memcg" """
    line = "hibprep reclaim max --cgroup /user.slice --backend swapreclaim"
    assert box.run(line) == ExitCode.DONE
    assert box.machine.cgroup("/user.slice").anon_bytes == 0
    assert box.machine.cgroup("/system.slice").anon_bytes == 256 * MIB
    assert box.amounts() == []
    assert box.amounts(f"{CGROUPS}/user.slice/memory.swap.reclaim")


def test_what_is_read_back_tells_the_end() -> None:
    """ "Reading from the this file returns the amount of bytes reclaimed in the last opportunistic
    memory reclaim attempt" """
    machine = kernel(cgroups=[FakeCgroup("/a", file_bytes=10 * MIB)])
    harness = Harness(machine)
    backend = harness.backends[BackendName.SWAPRECLAIM]
    statuses = []
    for _ in range(9):
        outcome = backend.run(step(Kind.FILE), Budget(4 * MIB, 0.1), harness.stop)
        statuses.append(outcome.status)
        if outcome.status is Status.EXHAUSTED:
            break
    assert statuses == [Status.OK] * 3 + [Status.WAIT] * 3 + [Status.EXHAUSTED]
    assert f"told of {10 * MIB} bytes" in outcome.note
    assert machine.read_file(FILE) == "0\n"


def test_a_signal_ends_it(box: Box) -> None:
    """ "Memory reclaim can be interrupted sending a signal to the process that is writing" """
    stop = []

    def press(_path: str, _text: str) -> None:
        stop.append(len(box.worker.requests))
        if len(stop) == 3:
            raise KeyboardInterrupt

    box.worker.before_write = press
    assert box.run("hibprep reclaim max --backend swapreclaim") == ExitCode.INTERRUPTED
    assert len(box.worker.requests) == 2
    assert box.machine.swappiness == 60


def test_a_time_limit_ends_it(box: Box, capsys: Capture) -> None:
    """ "i.e., to set a timeout for the whole memory reclaim run" """
    box.put(kernel())
    line = "hibprep reclaim max --backend swapreclaim --timeout 20"
    assert box.run(line) == ExitCode.DONE
    box.put(kernel())
    assert box.run("hibprep reclaim max --backend swapreclaim", "--timeout 0.000001") == (
        ExitCode.PARTLY
    )
    assert "time-out" in capsys.readouterr().err
    assert box.worker.requests == []


@pytest.mark.parametrize(("kind", "value"), [("file", "0"), ("anon", "200")])
def test_one_kind_by_swappiness_which_is_put_back(box: Box, kind: str, value: str) -> None:
    line = "hibprep reclaim max --backend swapreclaim"
    assert box.run(line, f"--type {kind}") == ExitCode.DONE
    cgroup = box.machine.cgroup("/user.slice")
    assert (cgroup.file_bytes == 0) is (kind == "file")
    assert box.machine.swappiness == 60
    assert ("/proc/sys/vm/swappiness", value) in box.machine.writes


def test_it_does_what_memory_reclaim_would_where_that_is_missing(box: Box) -> None:
    assert cli.run(["reclaim", "64M", "--root", str(box.tmp_path)]) == ExitCode.DONE
    assert sum(box.amounts()) == 64 * MIB


def test_what_rules_keep_is_never_named_nor_what_is_above_it(box: Box) -> None:
    config = box.tmp_path / "hibprep.toml"
    config.write_text('[cgroups]\nprotect = ["/system.slice"]\n')
    line = "hibprep reclaim max --backend swapreclaim"
    assert box.run(line, f"--config {config}") == ExitCode.DONE
    assert box.machine.cgroup("/user.slice").anon_bytes == 0
    assert box.machine.cgroup("/system.slice").anon_bytes == 256 * MIB
    assert box.amounts() == []


def test_probe() -> None:
    found = Harness(kernel()).backends[BackendName.SWAPRECLAIM].probe()
    assert found.available
    found = Harness(FakeMachine(kernel=(6, 12))).backends[BackendName.SWAPRECLAIM].probe()
    assert not found.available
    assert "mainline has memory.reclaim" in found.reason
    found = Harness(FakeMachine(cgroup_version=1)).backends[BackendName.SWAPRECLAIM].probe()
    assert "cgroup v1" in found.reason


def step(kind: Kind, scope: Scope = MACHINE) -> Step:
    return Step(
        stage=Stage.ANON,
        kind=kind,
        scope=scope,
        amount_bytes=GIB,
        backend=BackendName.SWAPRECLAIM,
    )


@pytest.mark.parametrize(
    "wanted", [step(Kind.SLAB), step(Kind.ANY, Scope(ScopeKind.PROCESS, pid=7))]
)
def test_what_it_cannot_do_is_refused_with_a_reason(wanted: Step) -> None:
    harness = Harness(kernel())
    backend = harness.backends[BackendName.SWAPRECLAIM]
    outcome = backend.run(wanted, Budget(MIB, 0.1), harness.stop)
    assert outcome.status is Status.FAILED
    assert outcome.note
    assert harness.machine.writes == []


def test_a_cgroup_that_has_gone_is_the_end() -> None:
    harness = Harness(kernel())
    backend = harness.backends[BackendName.SWAPRECLAIM]
    wanted = step(Kind.ANY, Scope(ScopeKind.CGROUP, "/absent"))
    outcomes = [backend.run(wanted, Budget(MIB, 0.1), harness.stop) for _ in range(2)]
    assert [each.status for each in outcomes] == [Status.OK, Status.EXHAUSTED]
