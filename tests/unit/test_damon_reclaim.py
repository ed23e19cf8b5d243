# SPDX-License-Identifier: LGPL-2.1-or-later
"""DAMON_RECLAIM on a fake kernel that reacts as the real one: order, commit, refusals."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hibprep.damon.idle import reasons
from hibprep.damon.parameters import PARAMETERS, PRESETS, kernel_text
from hibprep.errors import KernelFileError, NotPossibleError
from hibprep.kernel.damon_around import holders, kernel_version, surroundings, system_ram
from hibprep.kernel.damon_reclaim import (
    Changes,
    apply,
    missing_reason,
    path_of,
    read_reclaim,
)
from tests.fakes.damon import RECLAIM, FakeDamonReclaim
from tests.fakes.harness import FakeClock
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

INPUTS = {"min_age": 10_000_000, "wmarks_high": 1000, "wmarks_mid": 999, "wmarks_low": 0}


class Bench:
    """A machine with cold memory and DAMON_RECLAIM on it."""

    def __init__(self, kernel: tuple[int, int], directory: Path, *, stat: bool = False) -> None:
        self.machine = FakeMachine(
            kernel=kernel,
            total_bytes=4 * GIB,
            cgroups=[FakeCgroup("/a", anon=[AnonSet(GIB, idle_seconds=900)])],
            swaps=[FakeSwap("/dev/vda2", 4 * GIB)],
        )
        self.damon = FakeDamonReclaim(self.machine, stat=stat)
        self.root = FakeRoot(self.machine, directory)
        self.clock = FakeClock(self.machine)

    def wait(self, seconds: float) -> bool:
        self.machine.advance(seconds)
        return False

    def apply(self, *, enabled: bool | None = None, **inputs: int) -> list[tuple[str, str]]:
        done = apply(self.root, Changes(inputs, enabled), self.wait)
        return [(path.rpartition("/")[2], text) for path, text in done.writes]

    def reasons(self) -> list[str]:
        state = read_reclaim(self.root)
        return [each.name for each in reasons(state, surroundings(self.root, state, self.clock))]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench((6, 10), tmp_path)


def test_it_is_read_whole(bench: Bench) -> None:
    state = read_reclaim(bench.root)
    assert state.inputs == {
        name: each.default
        for name, each in PARAMETERS.items()
        if name not in ("addr_unit", "autotune_monitoring_intervals")
    }
    assert (state.enabled, state.committing, state.kdamond_pid) == (False, False, -1)
    assert kernel_version(bench.root) == (6, 10)
    assert system_ram(bench.root) == ((0x1000, 0x9FC00), (0x100000, 4 * GIB))


def test_a_kernel_without_it_says_which_has(tmp_path: Path) -> None:
    root = FakeRoot(FakeMachine(kernel=(6, 1)), tmp_path)
    assert "CONFIG_DAMON_RECLAIM" in missing_reason(root)
    assert missing_reason(Bench((6, 12), tmp_path).root) == ""


def test_the_preset_writes_what_the_document_writes(bench: Bench) -> None:
    written = bench.apply(enabled=True, **dict(PRESETS["document"]))
    # what is at that already is not written
    assert written == [("min_age", "30000000"), ("quota_sz", str(GIB)), ("enabled", "Y")]
    state = read_reclaim(bench.root)
    assert state.enabled
    assert {**state.inputs, **PRESETS["document"]} == state.inputs


def test_inputs_are_there_before_it_is_switched_on(bench: Bench) -> None:
    written = bench.apply(enabled=True, **INPUTS)
    assert written[-1] == ("enabled", "Y")
    assert bench.damon.in_force["min_age"] == 10_000_000
    bench.wait(15)
    assert bench.reasons() == []
    assert read_reclaim(bench.root).reclaimed_bytes > 0


def test_a_running_one_reads_its_inputs_again(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    written = bench.apply(min_age=20_000_000)
    assert written == [("min_age", "20000000"), ("commit_inputs", "Y")]
    assert bench.damon.in_force["min_age"] == 20_000_000
    assert not read_reclaim(bench.root).committing


def test_nothing_is_written_while_a_commit_is_under_way(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    bench.root.write(path_of("commit_inputs"), "Y")
    bench.machine.writes.clear()
    bench.apply(quota_ms=0)
    (name, _), *_ = bench.machine.writes
    assert name == path_of("quota_ms")
    assert bench.damon.in_force["quota_ms"] == 0


def test_a_commit_that_never_comes_is_told_in_time(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    bench.damon.pid = -1  # its thread has ended, as on an error of its own
    begin = bench.machine.now
    with pytest.raises(NotPossibleError, match="not in force"):
        bench.apply(quota_ms=0)
    assert bench.machine.now - begin < 60
    assert bench.reasons() == ["kdamond"]


def test_inputs_that_the_kernel_finds_wrong_switch_it_off_and_that_is_told(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    with pytest.raises(NotPossibleError, match="switched itself off"):
        bench.apply(min_nr_regions=2)


@pytest.mark.parametrize("refused", ["quota_ms", "enabled"])
def test_a_refusal_in_the_middle_puts_back_what_was_written(bench: Bench, refused: str) -> None:
    def refuse(_text: str) -> None:
        raise OSError(errno.EINVAL, "no")

    before = read_reclaim(bench.root)
    bench.machine.writers[f"{RECLAIM}/{refused}"] = refuse
    with pytest.raises(KernelFileError, match=f"{refused}.*nothing is changed"):
        bench.apply(enabled=True, min_age=1_000_000, quota_ms=7)
    assert read_reclaim(bench.root) == before


def test_off_ends_its_thread_and_keeps_its_parameters(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    assert bench.apply(enabled=False) == [("enabled", "N")]
    state = read_reclaim(bench.root)
    assert (state.enabled, state.kdamond_pid) == (False, -1)
    assert state.inputs["min_age"] == 10_000_000
    assert bench.apply(enabled=False) == []


def test_what_was_changed_behind_its_back_is_told(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    bench.wait(15)
    bench.root.write(path_of("min_age"), "1000000")
    assert "uncommitted" in bench.reasons()
    bench.apply(min_age=1_000_000)
    assert "uncommitted" not in bench.reasons()


def test_the_record_of_another_thread_says_nothing(bench: Bench) -> None:
    bench.apply(enabled=True, **INPUTS)
    bench.root.write(path_of("enabled"), "N")
    bench.wait(1)
    bench.root.write(path_of("min_age"), "1000000")
    bench.root.write(path_of("enabled"), "Y")
    assert "uncommitted" not in bench.reasons()


def test_it_cannot_run_beside_damon_stat_and_nothing_is_left_changed(tmp_path: Path) -> None:
    bench = Bench((7, 2), tmp_path, stat=True)
    before = read_reclaim(bench.root)
    (holder,) = holders(bench.root)
    assert holder.name == "DAMON_STAT"
    with pytest.raises(KernelFileError, match="another user of DAMON"):
        bench.apply(enabled=True, **INPUTS)
    assert read_reclaim(bench.root) == before
    bench.root.write(holder.switch, "N")
    bench.apply(enabled=True, **INPUTS)
    assert read_reclaim(bench.root).enabled


def test_a_kernel_that_loses_the_scheme_is_named_once_its_time_has_passed(tmp_path: Path) -> None:
    bench = Bench((6, 12), tmp_path)
    bench.apply(enabled=True, **INPUTS)
    assert bench.reasons() == ["age"]
    bench.wait(90)
    assert bench.reasons() == ["kernel"]
    assert read_reclaim(bench.root).tried_bytes == 0
    assert bench.machine.anon_bytes == GIB


def test_watermarks_are_judged_by_what_is_free_now(bench: Bench) -> None:
    bench.apply(enabled=True, min_age=10_000_000)
    assert bench.reasons() == ["watermarks", "age"] or bench.reasons() == ["age", "watermarks"]
    bench.wait(60)
    assert bench.reasons() == ["watermarks"]
    assert bench.machine.anon_bytes == GIB


def test_every_value_reads_back_as_it_was_set(bench: Bench) -> None:
    wanted = {"sample_interval": 10_000, "aggr_interval": 200_000, "quota_sz": 64 * MIB}
    bench.apply(enabled=True, **wanted)
    for name, value in wanted.items():
        assert bench.root.read(path_of(name)).strip() == kernel_text(value)
