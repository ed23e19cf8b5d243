# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reclaim on the kernel of this machine: what is reported is what the counters say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.load import Filler, make_cache, swapped_bytes
from bench.stopping import Done, run
from hibprep import prepare as engine
from hibprep.config import Config
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.process import all_pids
from hibprep.kernel.vmstat import read_vmstat
from hibprep.machine import Machine, open_machine
from hibprep.model import (
    BackendName,
    Ending,
    Kind,
    Limits,
    Plan,
    Report,
    Scope,
    ScopeKind,
    Stage,
    Step,
    Target,
    TargetKind,
)
from hibprep.reclaim.base import Stop
from tests.kernel.conftest import ROOT, journals

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]
MIB = 1 << 20
PAGE = 4096


def counters() -> dict[str, int]:
    """What the kernel counts, in bytes."""
    vmstat = read_vmstat(ROOT)
    return {
        "file": vmstat.pgsteal_file * PAGE,
        "anon": vmstat.pgsteal_anon * PAGE,
        "out": vmstat.pswpout * PAGE,
    }


def since(before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in counters().items()}


def finished(done: Done, *codes: int) -> dict[str, object]:
    assert done.code in codes, f"{done.code}: {done.stderr}"
    return done.report


def freed(report: dict[str, object], kind: str) -> int:
    all_kinds = report["freed"]
    assert isinstance(all_kinds, dict)
    return int(all_kinds[kind])


# --- the command line -----------------------------------------------------------------------------


def test_file_memory_is_freed_and_counted(workspace: Path, unchanged: dict[str, str]) -> None:
    make_cache(workspace, 256 * MIB)
    before, cached = counters(), read_meminfo(ROOT).file_lru_bytes
    report = finished(run(["reclaim", "100M", "--type", "file", "--json"], workspace), 0)
    counted = since(before)
    told = freed(report, "file_bytes")
    assert report["ending"] == "done"
    assert 100_000_000 <= told <= 250_000_000  # the kernel may take more than was asked for
    if any(step["backend"] != "dropcaches" for step in steps(report)):
        assert told == pytest.approx(counted["file"], rel=0.25)
    assert cached - read_meminfo(ROOT).file_lru_bytes >= told // 2
    assert freed(report, "swapped_out_bytes") <= 16 * MIB


def test_a_person_is_told_the_bytes(workspace: Path, unchanged: dict[str, str]) -> None:
    # Much more than is asked for: a file that was read again is on the active list, and from a
    # page cache of little else three rounds may not be enough to get it off there.
    make_cache(workspace, 512 * MIB)
    done = run(["reclaim", "16M", "--type", "file"], workspace)
    assert done.code == 0
    assert done.stdout.startswith("reclaimed ")
    assert int(done.stdout.split()[1]) >= 16_000_000


def test_node_reclaim_swaps_out_anon_memory_alone(
    workspace: Path, filler: Filler, unchanged: dict[str, str], node_reclaim: None
) -> None:
    """With the page cache dropped first, which is when node reclaim by itself does nothing: the
    two shares that it asks about are held at 0, and put back."""
    finished(run(["reclaim", "max", "--type", "file", "--json"], workspace), 0, 3)
    before = counters()
    done = run(["reclaim", "64M", "--type", "anon", "--backend", "node", "--json"], workspace)
    report = finished(done, 0)
    counted = since(before)
    told = freed(report, "anon_bytes")
    assert told >= 64_000_000
    assert told == pytest.approx(counted["anon"], rel=0.25)
    assert counted["out"] >= 32 * MIB
    words = report["knobs"]
    assert isinstance(words, list)
    if unchanged["/proc/sys/vm/min_unmapped_ratio"] != "0":
        assert any(str(word).startswith("vm.min_unmapped_ratio was set to 0") for word in words)
        assert any(str(word).startswith("vm.min_unmapped_ratio put back") for word in words)
    assert filler.intact()


def test_madvise_swaps_out(workspace: Path, filler: Filler, unchanged: dict[str, str]) -> None:
    """What it writes may stay in the swap cache, so that it is not told as freed."""
    before = counters()
    swapped = sum(_swapped(pid) for pid in all_pids(ROOT))
    done = run(["reclaim", "64M", "--type", "anon", "--backend", "madvise", "--json"], workspace)
    report = finished(done, 0)
    counted = since(before)
    told = freed(report, "swapped_out_bytes")
    assert told >= 60 * MIB
    assert told == pytest.approx(counted["out"], rel=0.25)
    assert freed(report, "anon_bytes") <= 1.25 * counted["out"]
    assert sum(_swapped(pid) for pid in all_pids(ROOT)) - swapped >= 32 * MIB
    assert report["knobs"] == []
    assert filler.intact()


def _swapped(pid: int) -> int:
    try:
        return swapped_bytes(pid)
    except OSError:
        return 0  # it has ended


def test_a_whole_preparation(
    workspace: Path, filler: Filler, unchanged: dict[str, str], swap_file: Path
) -> None:
    make_cache(workspace, 128 * MIB)
    before = counters()
    done = run(["prepare", "--target", "min", "--json"], workspace)
    report = finished(done, 0, 3)
    counted = since(before)
    assert report["ending"] in ("done", "exhausted", "limit")
    assert report["reason"]
    assert freed(report, "file_bytes") >= 64 * MIB
    reclaimed = freed(report, "file_bytes") + freed(report, "anon_bytes")
    assert reclaimed == pytest.approx(counted["file"] + counted["anon"], rel=0.25)
    assert freed(report, "swapped_out_bytes") == pytest.approx(counted["out"], rel=0.25)
    assert freed(report, "swapped_out_bytes") >= 64 * MIB
    assert filler.intact()
    kept = (workspace / "history" / "history.jsonl").read_text().splitlines()
    assert len(kept) == 1
    assert json.loads(kept[0])["started"] == report["started"]


def test_a_preparation_without_swap_says_so(workspace: Path, unchanged: dict[str, str]) -> None:
    if len(Path("/proc/swaps").read_text().splitlines()) > 1:
        pytest.skip("this machine has swap of its own")
    report = finished(run(["prepare", "--target", "min", "--json"], workspace), 0, 3)
    limits = report["limits"]
    assert isinstance(limits, list)
    assert "no-swap" in [limit["name"] for limit in limits]
    assert freed(report, "anon_bytes") == 0


def test_a_plan_changes_nothing(workspace: Path, unchanged: dict[str, str]) -> None:
    before, records = counters(), journals()
    done = run(["plan", "--target", "min", "--json"], workspace)
    assert done.code == 0, done.stderr
    assert since(before)["out"] <= MIB
    assert journals() == records


def steps(report: dict[str, object]) -> list[dict[str, object]]:
    found = report["steps"]
    assert isinstance(found, list)
    return found


# --- one process, by the library ------------------------------------------------------------------


def reclaim_process(pid: int, amount_bytes: int) -> Report:
    """MADV_PAGEOUT on one process."""
    machine = open_machine("/", Config())
    scope = Scope(ScopeKind.PROCESS, pid=pid)
    limits = Limits(scope=scope, backend=BackendName.MADVISE)
    step = Step(
        stage=Stage.ANON,
        kind=Kind.ANON,
        scope=scope,
        amount_bytes=amount_bytes,
        backend=BackendName.MADVISE,
    )
    stop = Stop()
    try:
        return engine.run_plan(
            machine,
            [plan_of(machine, limits, step)],
            limits,
            stop,
            timeout_seconds=60,
            progress=None,
            command="test",
        )
    finally:
        stop.close()


def plan_of(machine: Machine, limits: Limits, step: Step) -> Plan:
    """A plan of that one step."""
    made = engine.make_plan(machine, Target(TargetKind.MIN), limits)
    return Plan(
        target=made.target,
        goal_bytes=0,
        steps=(step,),
        before=made.before,
        after=made.after,
        fit_before=made.fit_before,
        fit_after=made.fit_after,
        limits=made.limits,
        irreducible=made.irreducible,
        swap_budget_bytes=made.swap_budget_bytes,
        knobs=(),
        rates=made.rates,
    )


def test_one_process_is_paged_out(filler: Filler, unchanged: dict[str, str]) -> None:
    before = counters()
    report = reclaim_process(filler.pid, 64 * MIB)
    assert report.ending is Ending.DONE
    assert filler.swapped_bytes() >= 60 * MIB
    # the last chunk may take more; all of it would be too much
    assert filler.swapped_bytes() <= 192 * MIB
    assert report.freed.swapped_out_bytes == pytest.approx(since(before)["out"], rel=0.25)
    assert filler.intact()


def test_all_of_one_process_is_paged_out(filler: Filler, unchanged: dict[str, str]) -> None:
    report = reclaim_process(filler.pid, 1 << 40)
    assert report.ending in (Ending.DONE, Ending.EXHAUSTED)
    assert filler.swapped_bytes() >= 0.9 * filler.size_bytes
    assert filler.intact()


def test_locked_memory_is_left_alone_and_told(swap_file: Path, unchanged: dict[str, str]) -> None:
    with Filler(64 * MIB, lock=True) as locked:
        report = reclaim_process(locked.pid, 1 << 40)
        assert report.ending in (Ending.DONE, Ending.EXHAUSTED)
        assert locked.swapped_bytes() < 8 * MIB
        told = [word for word in report.steps[0].reason.split() if word.isdigit()]
        assert "skipped" in report.steps[0].reason
        assert max(map(int, told)) >= 64 * MIB


def test_a_process_that_is_none_ends_the_step(swap_file: Path) -> None:
    report = reclaim_process(2**22 + 1, MIB)
    assert report.ending in (Ending.DONE, Ending.EXHAUSTED)
    assert report.freed.swapped_out_bytes <= 16 * MIB
