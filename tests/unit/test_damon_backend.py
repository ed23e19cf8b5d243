# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `damon` on a fake tree: what it takes, what it leaves alone, and that nothing of it
stays behind, wherever it is killed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.amount import for_age, for_reclaim
from hibprep.damon.pageout import PAGE, Attributes, only_again, schemes_for, with_quota
from hibprep.errors import KernelFileError
from hibprep.kernel import damon_sysfs
from hibprep.kernel.damon_around import STAT_ENABLED
from hibprep.kernel.root import KernelRoot
from hibprep.model import BackendName, Ending, Kind, Limits, Rates, Scope, ScopeKind
from hibprep.reclaim.damon import Damon
from hibprep.reclaim.executor import Run
from tests.fakes.damon import RECLAIM, FakeDamonReclaim
from tests.fakes.damon_tree import CONTEXT, KDAMOND, KDAMONDS, FakeDamonTree
from tests.fakes.harness import Harness
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

NR = f"{KDAMONDS}/nr_kdamonds"
MARK = f"{CONTEXT}/schemes/0/access_pattern/sz/max"
APP, DATABASE = "/user.slice/app.service", "/system.slice/db.service"


class Bench:
    """A machine with two cgroups, cold and hot memory in each, and DAMON."""

    def __init__(
        self,
        directory: Path,
        kernel: tuple[int, int] = (6, 12),
        *,
        stat: bool = False,
        limits: Limits | None = None,
        database_min: int = 0,
    ) -> None:
        self.machine = FakeMachine(
            kernel=kernel,
            total_bytes=4 * GIB,
            hibernation=False,
            cgroups=[
                FakeCgroup(
                    path,
                    anon=[AnonSet(600 * MIB, idle_seconds=900), AnonSet(100 * MIB, hot=True)],
                    min_bytes=least,
                )
                for path, least in ((APP, 0), (DATABASE, database_min))
            ],
            swaps=[FakeSwap("/dev/vda2", 4 * GIB)],
        )
        self.modules = FakeDamonReclaim(self.machine, stat=stat)
        self.tree = FakeDamonTree(self.machine, self.modules)
        self.root = FakeRoot(self.machine, directory)
        self.harness = Harness(self.machine, limits or Limits(backend=BackendName.DAMON))
        self.backend = Damon(
            self.root,
            self.harness.tree,
            self.harness.worker,
            self.harness.set_knob,
            self.harness.clock,
        )
        self.harness.backends[BackendName.DAMON] = self.backend
        self.machine.writes.clear()

    def reclaim(self, amount: int | None, kind: Kind = Kind.ANON, age: float = 30.0) -> Run:
        (plan,) = for_reclaim(
            self.harness.snapshot(),
            self.harness.capabilities(),
            kind=kind,
            amount_bytes=amount,
            min_age_seconds=age,
            limits=self.harness.limits,
            rates=Rates(),
        )
        assert plan.steps, plan.limits
        return self.harness.run(plan)

    def resident(self, path: str) -> int:
        return sum(each.size_bytes for each in self.machine.by_path[path].anon)

    def left_behind(self) -> list[str]:
        left = [] if self.root.read(NR).strip() == "0" else [NR]
        record = self.root.path(damon_sysfs.RECORD)
        return left + ([str(record)] if record.exists() else [])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_all_that_is_cold_goes_and_the_hot_stays(bench: Bench) -> None:
    run = bench.reclaim(None)
    assert run.ending in (Ending.DONE, Ending.EXHAUSTED)
    assert bench.resident(APP) == bench.resident(DATABASE) == 100 * MIB
    assert run.freed.swapped_out_bytes == 1200 * MIB
    # pgsteal does not count this path on this kernel
    assert bench.machine.events.get("pgsteal_anon", 0) == 0
    assert run.freed.anon_bytes == 1200 * MIB
    assert bench.tree.running
    assert bench.backend.close() == []
    assert bench.left_behind() == []
    assert not bench.tree.running


def test_what_leaves_memory_long_after_it_was_sent_is_waited_for(bench: Bench) -> None:
    bench.machine.swap_delay_seconds = 20.0  # less than the age, which passes once more
    run = bench.reclaim(300 * MIB)
    assert run.ending is Ending.DONE
    assert run.freed.anon_bytes >= 300 * MIB


def test_nothing_younger_than_the_age_is_touched(bench: Bench) -> None:
    for path in (APP, DATABASE):
        bench.machine.by_path[path].anon[0].last_used = bench.machine.now - 5
    begin = bench.machine.now
    run = bench.reclaim(None, age=30.0)
    assert bench.machine.now - begin >= 30
    assert run.freed.swapped_out_bytes == 1200 * MIB  # it grew old while it was watched
    for path in (APP, DATABASE):
        assert bench.machine.by_path[path].anon[1].swapped_bytes == 0


def test_no_more_than_was_asked_for_is_sent_away(bench: Bench) -> None:
    bench.reclaim(200 * MIB)
    sent = sum(bench.tree.paged_out.values())
    # an in-flight second's worth of quota at most
    assert 200 * MIB <= sent <= 200 * MIB + 11 * 32 * MIB
    bench.backend.close()
    assert bench.left_behind() == []


def test_a_cgroup_by_filter(tmp_path: Path) -> None:
    limits = Limits(backend=BackendName.DAMON, scope=Scope(ScopeKind.CGROUP, APP))
    bench = Bench(tmp_path, limits=limits)
    bench.reclaim(None)
    assert bench.resident(APP) == 100 * MIB
    assert bench.resident(DATABASE) == 700 * MIB


def test_protected_memory_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, database_min=50 * MIB)
    bench.reclaim(None)
    assert bench.resident(DATABASE) == 700 * MIB
    assert bench.resident(APP) == 100 * MIB


def test_files_are_asked_for_by_the_other_filter(bench: Bench) -> None:
    bench.machine.by_path[APP].file_bytes = 100 * MIB
    run = bench.reclaim(50 * MIB, Kind.FILE)
    assert bench.root.read(f"{CONTEXT}/schemes/0/filters/0/matching").strip() == "Y"
    assert bench.resident(APP) == 700 * MIB
    assert run.ending is Ending.DONE
    assert run.freed.file_bytes == 100 * MIB - bench.machine.by_path[APP].file_bytes


def test_files_are_counted_by_the_kernel_where_others_read_meanwhile(tmp_path: Path) -> None:
    bench = Bench(tmp_path, database_min=GIB)
    group = bench.machine.by_path[APP]
    group.file_bytes = before = 1500 * MIB

    def read(_path: str, _text: str) -> None:
        bench.machine.by_path[DATABASE].file_bytes += 32 * MIB

    bench.harness.worker.before_write = read
    run = bench.reclaim(500 * MIB, Kind.FILE)
    assert run.ending is Ending.DONE
    assert run.freed.file_bytes == before - group.file_bytes
    # it goes on for as long as it takes to look again
    assert 500 * MIB <= run.freed.file_bytes <= 500 * MIB + 21 * 32 * MIB


def test_newer_kernels_have_the_filters_elsewhere(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (7, 2))
    bench.reclaim(None)
    assert bench.resident(APP) == 100 * MIB
    assert bench.root.read(f"{CONTEXT}/schemes/0/ops_filters/0/type").strip() == "anon"


def test_damon_stat_is_switched_off_by_the_journal(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (7, 2), stat=True)
    capability = bench.backend.probe()
    assert capability.available
    assert "DAMON_STAT" in capability.reason
    bench.reclaim(None)
    assert bench.harness.knobs == {STAT_ENABLED: "Y"}
    # what the journal does at the end: not before the kdamond is gone
    with pytest.raises(OSError, match="busy"):
        bench.root.raw_write(STAT_ENABLED, "Y")
    bench.backend.close()
    bench.root.write(STAT_ENABLED, "Y")


def test_who_uses_damon_already_is_not_disturbed(bench: Bench) -> None:
    bench.root.write(f"{RECLAIM}/wmarks_high", "1000")
    bench.root.write(f"{RECLAIM}/enabled", "Y")
    capability = bench.backend.probe()
    assert not capability.available
    assert "hibprep damon off" in capability.reason
    bench.root.write(f"{RECLAIM}/enabled", "N")
    assert bench.backend.probe().available
    bench.root.write(NR, "1")
    capability = bench.backend.probe()
    assert not capability.available
    assert "not ours" in capability.reason
    assert bench.backend.close() == []
    assert bench.root.read(NR).strip() == "1"


def test_kernels_without_it_say_what_has_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.machine.remove_files("/sys/kernel/mm/damon/admin")
    capability = bench.backend.probe()
    assert not capability.available
    assert "CONFIG_DAMON_SYSFS" in capability.reason
    assert capability.since == "6.3"


def test_it_is_no_choice_unless_it_is_named(bench: Bench) -> None:
    bench.harness.limits = Limits()
    for kind in (Kind.ANON, Kind.FILE, Kind.ANY):
        for plan in for_reclaim(
            bench.harness.snapshot(),
            bench.harness.capabilities(),
            kind=kind,
            amount_bytes=None,
            min_age_seconds=30.0,
            limits=bench.harness.limits,
            rates=Rates(),
        ):
            assert all(step.backend is not BackendName.DAMON for step in plan.steps)


def test_it_has_to_be_waited_for(bench: Bench) -> None:
    plans = for_age(
        bench.harness.snapshot(),
        bench.harness.capabilities(),
        min_age_seconds=30.0,
        limits=bench.harness.limits,
        rates=Rates(),
    )
    assert plans
    for plan in plans:
        assert plan.steps == ()
        assert any("damon has to watch" in limit.text for limit in plan.limits)


def test_a_kdamond_that_somebody_else_ended_is_told(bench: Bench) -> None:
    def end(_path: str, text: str) -> None:
        if text == "update_schemes_stats":
            bench.root.raw_write(f"{KDAMOND}/state", "off")
            bench.harness.worker.before_write = None

    bench.harness.worker.before_write = end
    run = bench.reclaim(None)
    assert run.ending is Ending.FAILED
    assert bench.backend.close() == []
    assert bench.left_behind() == []


def test_somebody_who_looks_at_the_tree_is_waited_for(bench: Bench) -> None:
    bench.tree.busy = 7
    bench.reclaim(None)
    assert bench.tree.busy == 0
    assert bench.resident(APP) == bench.resident(DATABASE) == 100 * MIB


def test_a_lock_that_the_kdamond_holds_for_a_moment_is_tried_again(bench: Bench) -> None:
    bench.tree.contended = True
    run = bench.reclaim(None)
    assert run.ending in (Ending.DONE, Ending.EXHAUSTED)
    assert bench.resident(APP) == bench.resident(DATABASE) == 100 * MIB
    assert bench.backend.close() == []
    assert bench.left_behind() == []


def test_a_stop_leaves_nothing_to_wait_for(bench: Bench) -> None:
    bench.harness.stop.within(40)
    begin = bench.machine.now
    run = bench.reclaim(None)
    assert run.ending is Ending.DEADLINE
    assert bench.machine.now - begin <= 42
    bench.backend.close()
    assert bench.left_behind() == []


# --- killed -------------------------------------------------------------------------------------


class Killed(BaseException):
    """As if by SIGKILL: nothing is cleaned up."""


class MortalRoot(FakeRoot):
    """Dies before its n-th write, or right after it."""

    def __init__(self, machine: FakeMachine, prefix: Path, writes: int, *, after: bool) -> None:
        super().__init__(machine, prefix)
        self.left = writes
        self.after = after

    def raw_write(self, p: str, text: str) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        super().raw_write(p, text)
        if self.left == 0:
            raise Killed


class Processes(KernelRoot):
    """The machine's processes: the one that was killed is no more."""

    def raw_read(self, p: str) -> str:
        if p.startswith("/proc/sys"):
            return "this boot\n"
        raise OSError(errno.ENOENT, "no such process")


def start(bench: Bench, root: FakeRoot, processes: KernelRoot) -> damon_sysfs.Kdamond:
    attributes = Attributes.for_age(30)
    schemes = schemes_for(anon=True, least_age=30, quota_bytes=MIB, without=(DATABASE,))
    kdamond = damon_sysfs.Kdamond(root, processes=processes)
    kdamond.start(attributes, [(0x100000, bench.machine.total_bytes)], schemes)
    return kdamond


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_nothing_of_it_stays(tmp_path: Path, *, after: bool) -> None:
    processes = Processes()
    counting = Bench(tmp_path / "count")
    start(counting, counting.root, processes)
    writes = len(counting.machine.writes)
    assert writes > 20
    for number in range(1, writes + 1):
        bench = Bench(tmp_path / str(number))
        root = MortalRoot(bench.machine, tmp_path / str(number), number, after=after)
        with pytest.raises(Killed):
            start(bench, root, processes)
        damon_sysfs.recover(bench.root, processes=processes)
        assert bench.left_behind() == [], (number, bench.machine.writes[-1])
        assert not bench.tree.running


def test_what_somebody_made_since_is_not_taken_away(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    processes = Processes()
    start(bench, bench.root, processes)
    write = bench.root.raw_write
    write(f"{KDAMOND}/state", "off")
    write(NR, "0")
    write(NR, "1")
    write(f"{KDAMOND}/contexts/nr_contexts", "1")
    write(f"{CONTEXT}/schemes/nr_schemes", "1")
    write(MARK, "18446744073709551615")
    words = damon_sysfs.recover(bench.root, processes=processes)
    assert "somebody else" in words[0]
    assert bench.root.read(NR).strip() == "1"
    assert bench.root.read(MARK).strip() == "18446744073709551615"


def test_the_kdamond_of_a_living_run_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    start(bench, bench.root, KernelRoot())
    assert damon_sysfs.recover(bench.root) == []
    assert bench.tree.running


def test_the_record_of_another_boot_is_forgotten(tmp_path: Path) -> None:
    class Rebooted(Processes):
        def raw_read(self, p: str) -> str:
            return "another boot\n" if p.startswith("/proc/sys") else super().raw_read(p)

    bench = Bench(tmp_path)
    start(bench, bench.root, Processes())
    assert damon_sysfs.recover(bench.root, processes=Rebooted()) == []
    assert bench.tree.running  # on the real one there would be none


def test_a_record_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    path = bench.root.path(damon_sysfs.RECORD)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    (words,) = damon_sysfs.recover(bench.root)
    assert "left as it is" in words


@pytest.mark.parametrize("refused", [NR, MARK, f"{KDAMOND}/state"])
def test_what_the_kernel_refuses_leaves_nothing(bench: Bench, refused: str) -> None:
    def refuse(_text: str) -> None:
        raise OSError(errno.EINVAL, "no")

    add, replaced = bench.machine.add_file, refused

    def add_file(path: str, reader: object, writer: object = None) -> None:
        add(path, reader, refuse if path == replaced else writer)  # type: ignore[arg-type]

    bench.machine.add_file = add_file  # type: ignore[method-assign]
    if refused == NR:
        bench.machine.writers[NR] = refuse
    with pytest.raises(KernelFileError):
        start(bench, bench.root, Processes())
    assert bench.left_behind() == []


# --- pure ---------------------------------------------------------------------------------------


@given(st.floats(1, 86400))
def test_an_age_is_never_taken_for_less(seconds: float) -> None:
    attributes = Attributes.for_age(seconds)
    assert attributes.aggregations(seconds) * attributes.aggr_us >= seconds * 1e6 - 1e-3
    assert attributes.sample_us * 20 <= attributes.aggr_us
    assert 100_000 <= attributes.aggr_us <= 2_000_000


@given(st.integers(PAGE, GIB), st.lists(st.text("abc", min_size=1), max_size=5, unique=True))
def test_a_quota_is_shared_out(quota: int, paths: list[str]) -> None:
    schemes = schemes_for(anon=True, least_age=3, quota_bytes=quota, only=paths)
    assert len(schemes) == max(1, len(paths))
    assert all(each.quota_bytes >= PAGE for each in schemes)
    assert sum(each.quota_bytes for each in with_quota(schemes, quota)) <= quota + 5 * PAGE


def test_what_was_sent_alone_goes_on() -> None:
    schemes = schemes_for(anon=True, least_age=30, quota_bytes=MIB)
    assert {each.most_age for each in only_again(schemes, 45)} == {48}
    assert {each.most_age for each in only_again(schemes, 4)} == {33}
