# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the files of kidled and coldpgs say, in the words of their documents; and that nothing
younger than the age is ever taken."""

from __future__ import annotations

import contextlib
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.errors import KernelFileMalformed
from hibprep.kernel import coldpgs, kidled
from hibprep.kernel.coldpgs import CgroupFlags, Flag, Mode
from hibprep.kernel.kidled import Cold
from hibprep.model import MACHINE, BackendName, Kind, Scope, ScopeKind, Stage, Step
from hibprep.reclaim.base import Budget, Status
from tests.fakes.coldpgs import SYSFS, ColdKernel, ColdSet
from tests.fakes.harness import Harness
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, PAGE, FakeCgroup, FakeSwap
from tests.fakes.texts import CGROUPS

# as Documentation/vm/kidled.rst of those kernels has it, some columns shortened
SNAPSHOT = """\
# version: 1.0
# scans: 1380
# scan_period_in_seconds: 120
# buckets: 1,2,5,15,30,60,120,240
#
#   _-----=> clean/dirty
#  / _----=> swap/file
# | / _---=> evict/unevict
# || / _--=> inactive/active
# ||| /
# ||||              [1,2)          [2,5)         [5,15)        [15,30)        [30,60)       [60,120)
    csei                  0              0              0              0           0 0 0 0
    dsei                  0              0         442368          49152           0 49152 212992 7741440
    cfei               4096         233472        1171456        1032192       28672 65536 122880 147550208
    dfei                  0              0           4096          20480        4096 0 12288 12288
    csea              77824         331776        1216512        1069056      217088 372736 327680 33284096
    cfea               4096          57344         606208       13144064       53248 135168 1683456 48357376
    cfui                  0             10              0              0           0 0 0 0
"""  # noqa: E501
SLAB = """\
# version: 1.0
# page_scans: 92
# slab_scans: 91
# scan_period_in_seconds: 120
# buckets: 1,2,5,15,30,60,120,240
# ||||| _-=> slab
    csei                  0              0              0              0           0 0 0 1
    slab               2704            832          15600          20800       70720 763819160 0 0
"""


def test_idle_page_stats() -> None:
    stats = kidled.parse_idle_stats(SNAPSHOT)
    assert (stats.version, stats.scans, stats.period_seconds) == ("1.0", 1380, 120)
    assert stats.buckets == (1, 2, 5, 15, 30, 60, 120, 240)
    assert stats.rows["csea"][1] == 331776
    # clean page cache alone: what is dirty has to be written first
    assert stats.of(Kind.FILE)[:2] == (4096 + 4096, 233472 + 57344)
    assert stats.of(Kind.FILE, mlocked=True)[1] == 233472 + 57344 + 10
    assert stats.of(Kind.ANON)[2] == 442368 + 1216512
    assert stats.of(Kind.SLAB) == ()
    assert stats.cold(Kind.FILE, 240) == Cold(147550208 + 48357376, 147550208 + 48357376)
    sure = 122880 + 1683456 + 147550208 + 48357376
    assert stats.cold(Kind.FILE, 61) == Cold(sure, sure + 65536 + 135168)


def test_idle_page_stats_with_slab() -> None:
    stats = kidled.parse_idle_stats(SLAB)
    assert stats.scans == 92
    assert stats.of(Kind.SLAB)[5] == 763819160
    assert stats.cold(Kind.SLAB, 60).sure_bytes == 763819160
    assert stats.of(Kind.ANON)[7] == 1


def test_a_cgroup_that_is_not_counted() -> None:
    text = "# version: 1.0\n# scans: 0\n# scan_period_in_seconds: 1\n"
    stats = kidled.parse_idle_stats(text + "# buckets: no valid bucket available\n")
    assert stats.buckets == ()
    assert stats.cold(Kind.ANON, 1) == Cold()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cfei 1 2\n",
        "# buckets: 1,2\ncfei 1\n",
        "# buckets: 1,2\nxfei 1 2\n",
        "# buckets: 2,1\ncfei 1 2\n",
        "# buckets: 1,2\ncfei 1 -2\n",
        "# buckets: 1,٣\n",
    ],
)
def test_what_is_no_idle_page_stats(text: str) -> None:
    with pytest.raises(KernelFileMalformed, match=r"memory\.idle_page_stats"):
        kidled.parse_idle_stats(text)


@given(st.text(alphabet="# buckets:scan,0123456789cfeidua\n -xkB", max_size=200))
def test_parsers_believe_or_refuse(text: str) -> None:
    for parse in (
        kidled.parse_idle_stats,
        coldpgs.parse_cgroup_flags,
        coldpgs.parse_version,
        lambda each: coldpgs.parse_statistics(each, PAGE),
    ):
        with contextlib.suppress(KernelFileMalformed):
            parse(text)


BUCKETS = st.sets(st.integers(1, 255), min_size=1, max_size=8).map(lambda each: tuple(sorted(each)))


@given(BUCKETS, st.integers(1, 255), st.lists(st.integers(0, 255), max_size=20))
def test_what_is_sure_is_old_enough_and_nothing_old_enough_is_left_out(
    buckets: tuple[int, ...], periods: int, ages: list[int]
) -> None:
    """Against pages whose ages are known; those under the first bucket are not counted at all."""
    uppers = (*buckets[1:], 256)
    figures = [
        sum(low <= age < high for age in ages)
        for low, high in zip(buckets, uppers, strict=True)
    ]  # fmt: skip
    text = f"# buckets: {','.join(map(str, buckets))}\ncsei {' '.join(map(str, figures))}\n"
    found = kidled.parse_idle_stats(text).cold(Kind.ANON, periods)
    old = sum(age >= max(periods, buckets[0]) for age in ages)
    assert found.sure_bytes <= old <= found.most_bytes
    assert kidled.buckets_text(buckets) == ",".join(map(str, buckets)) + "\n"


@given(st.floats(0.5, 1e6), st.integers(0, 0xFFFF))
def test_periods_hold_the_age_or_refuse_it(age: float, period: int) -> None:
    try:
        periods = kidled.periods_for(age, period)
    except ValueError as error:
        assert str(error)  # noqa: PT017
        assert not period or age < period or age > 255 * period
    else:
        assert 1 <= periods <= 255
        assert (periods - 1) * period < age <= periods * period


def test_versions_and_flags() -> None:
    assert coldpgs.parse_version("0x20500\n") == "2.5.0"
    assert coldpgs.parse_version("0x30000\n") == "3.0.0"
    flags = coldpgs.parse_cgroup_flags("0xb0000002a\n")
    assert flags == CgroupFlags(0x2A, Mode.CACHE | Mode.ANON, Flag.MLOCKED)
    assert coldpgs.parse_cgroup_flags("0x0\n") == CgroupFlags(0, Mode(0), Flag(0))


@given(st.integers(0, 0xFFFF_FFFF), st.integers(0, 7), st.integers(0, 3))
def test_flags_of_a_cgroup_read_back(coldness: int, mode: int, control: int) -> None:
    flags = CgroupFlags(coldness, Mode(mode), Flag(control))
    assert coldpgs.parse_cgroup_flags(flags.text()) == flags


def test_statistics_in_pages_and_in_kilobytes() -> None:
    old = coldpgs.parse_statistics(
        "pagecache migrate in    : 0\npagecache dropped       : 32768\nanon swap out : 1\n", PAGE
    )
    assert old.own["pagecache dropped"] == 128 * MIB
    assert old.total == old.own
    assert old.taken_bytes == 128 * MIB + PAGE
    new = coldpgs.parse_statistics(
        "anon swap in                    :                    8 kB\n"
        "slab drop                       :              3099108 kB\n"
        "Total slab drop                 :              3099112 kB\n",
        PAGE,
    )
    assert new.own == {"anon swap in": 8192, "slab drop": 3099108 << 10}
    assert new.total == {"slab drop": 3099112 << 10}
    assert new.taken_bytes == 3099108 << 10


@pytest.mark.parametrize("text", ["pagecache dropped 3", "a : 1 MB", "a : 1 2 3", "a : x", "a :"])
def test_what_is_no_statistics(text: str) -> None:
    with pytest.raises(KernelFileMalformed):
        coldpgs.parse_statistics(text, PAGE)


# --- the fake, and the back-end on it -------------------------------------------------------------


def kernel(sets: list[ColdSet], **changes: object) -> tuple[ColdKernel, Harness]:
    machine = FakeMachine(
        total_bytes=4 * GIB,
        kernel=(5, 10),
        cgroups=[FakeCgroup("/a"), FakeCgroup("/a/b"), FakeCgroup("/c")],
        swaps=[FakeSwap("/dev/vda2", GIB)],
        lru_gen=None,
        hibernation=False,
    )
    found = ColdKernel(machine, sets, **changes)  # type: ignore[arg-type]
    return found, Harness(machine)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("threshold", ["0", "256", "-1", "x", "0x1", ""]),
        ("threshold_nonrot", ["256", "x"]),
        ("batch", ["0", "-1", "1k"]),
        ("hierarchy", ["2", "y"]),
        ("flags", ["x", "0x1ffffffff"]),
        ("mode", ["-1", "anon"]),
        ("swapin", ["swapin", "1", "swapin \n"]),
        ("../kidled/scan_period_in_seconds", ["65536", "-1", "15s"]),
    ],
)
def test_the_fake_refuses_as_the_source_does(name: str, wrong: list[str]) -> None:
    _, harness = kernel([])
    path = f"{SYSFS}/{name}".replace("coldpgs/../", "")
    for text in wrong:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            harness.machine.write_file(path, text)
        assert caught.value.errno == errno.EINVAL


def test_the_fake_takes_when_both_are_written_in_either_order() -> None:
    for first, second in (("threshold", "size"), ("size", "threshold")):
        cold, harness = kernel([ColdSet("cfei", MIB, 5, "/a"), ColdSet("csei", MIB, 5, "/a")])
        values = {"threshold": "3", "size": f"{MIB}"}
        harness.machine.write_file(f"{SYSFS}/mode", "0x1")
        harness.machine.write_file(f"{CGROUPS}/a/memory.coldpgs.{first}", values[first])
        assert cold.sets[0].size_bytes == MIB
        harness.machine.write_file(f"{CGROUPS}/a/memory.coldpgs.{second}", values[second])
        assert [each.size_bytes for each in cold.sets] == [0, MIB]
        assert (cold.controls["/a"].threshold, cold.controls["/a"].size) == (0, 0)


def step(kind: Kind, age: float, scope: Scope = MACHINE, spared: tuple[str, ...] = ()) -> Step:
    return Step(
        stage=Stage.ANON,
        kind=kind,
        scope=scope,
        amount_bytes=GIB,
        backend=BackendName.COLDPGS,
        min_age_seconds=age,
        spared=spared,
    )


SETS = st.lists(
    st.builds(
        ColdSet,
        row=st.sampled_from(["csei", "dsea", "cfei", "dfei", "cfea", "csui", "cfui", "slab"]),
        size_bytes=st.integers(1, 64).map(lambda count: count * MIB),
        age=st.integers(0, 40),
        cgroup=st.sampled_from(["/", "/a", "/a/b", "/c"]),
    ),
    max_size=8,
)
ENDED = st.lists(
    st.builds(
        ColdSet,
        row=st.sampled_from(["csei", "cfei"]),
        size_bytes=st.integers(1, 64).map(lambda count: count * MIB),
        age=st.integers(0, 40),
        cgroup=st.sampled_from(["/", "/a", "/a/b", "/c"]),
        ended=st.just(value=True),
    ),
    max_size=3,
)


@settings(deadline=None)
@given(
    sets=SETS,
    kind=st.sampled_from([Kind.FILE, Kind.ANON]),
    age=st.floats(15, 600),
    scope=st.sampled_from(["", "/a", "/c"]),
    spared=st.sampled_from([(), ("/a/b",)]),
    amount=st.integers(8, 300).map(lambda count: count * MIB),
    slab=st.booleans(),
)
def test_nothing_younger_no_other_kind_no_other_cgroup_and_no_more_than_a_chunk(
    *,
    sets: list[ColdSet],
    kind: Kind,
    age: float,
    scope: str,
    spared: tuple[str, ...],
    amount: int,
    slab: bool,
) -> None:
    before = [each.size_bytes for each in sets]
    cold, harness = kernel(sets, slab=slab)
    backend = harness.backends[BackendName.COLDPGS]
    wanted = step(
        kind, age, Scope(ScopeKind.CGROUP, scope) if scope else MACHINE, spared
    )  # fmt: skip
    for _ in range(100):
        left = sum(each.size_bytes for each in sets)
        outcome = backend.run(wanted, Budget(amount, 0.1), harness.stop)
        assert left - sum(each.size_bytes for each in sets) <= amount
        if outcome.status is not Status.OK:
            break
    assert outcome.status is Status.EXHAUSTED
    for each, had in zip(sets, before, strict=True):
        may = (
            cold.age_of(each) * 15 >= age
            and not each.is_locked
            and not each.is_slab
            and each.is_anon is (kind is Kind.ANON)
            and not each.row.startswith("df")
            and (each.cgroup + "/").startswith(scope + "/")
            and not any((each.cgroup + "/").startswith(f"{path}/") for path in spared)
        )
        assert each.size_bytes == (0 if may else had)


@settings(deadline=None)
@given(
    sets=SETS, ended=ENDED, kind=st.sampled_from([Kind.FILE, Kind.ANON]), amount=st.integers(8, 90)
)
def test_what_ended_cgroups_left_is_no_reason_to_take_more_than_a_chunk(
    *, sets: list[ColdSet], ended: list[ColdSet], kind: Kind, amount: int
) -> None:
    """Where kidled tells what is below a cgroup from its own."""
    both = [*sets, *ended]
    cold, harness = kernel(both, slab=True)
    backend = harness.backends[BackendName.COLDPGS]
    ages = [cold.age_of(each) for each in both]
    before = [each.size_bytes for each in both]
    for _ in range(100):
        left = sum(each.size_bytes for each in both)
        outcome = backend.run(step(kind, 60), Budget(amount * MIB, 0.1), harness.stop)
        assert left - sum(each.size_bytes for each in both) <= amount * MIB
        if outcome.status is not Status.OK:
            break
    assert outcome.status is Status.EXHAUSTED
    for each, age, had in zip(both, ages, before, strict=True):
        assert each.size_bytes == had or age >= 4


def test_a_stop_before_a_chunk_writes_nothing() -> None:
    cold, harness = kernel([ColdSet("csei", 8 * MIB, 9, "/a")])
    harness.stop.request("enough")
    outcome = harness.backends[BackendName.COLDPGS].run(
        step(Kind.ANON, 15), Budget(MIB, 0.1), harness.stop
    )
    assert outcome.status is Status.STOPPED
    assert harness.machine.writes == []
    assert cold.sets[0].size_bytes == 8 * MIB


def test_a_stop_in_a_chunk_leaves_the_settings_on_record() -> None:
    _, harness = kernel([ColdSet("csei", 8 * MIB, 9, "/a")])
    harness.worker.before_write = lambda *_: harness.stop.request("enough")
    outcome = harness.backends[BackendName.COLDPGS].run(
        step(Kind.ANON, 15), Budget(MIB, 0.1), harness.stop
    )
    assert outcome.status is Status.STOPPED
    assert harness.knobs == {
        f"{SYSFS}/mode": "0x0",
        f"{CGROUPS}/a/memory.coldpgs.size": "0",
        f"{CGROUPS}/a/memory.coldpgs.threshold": "0",
    }


def test_a_cgroup_that_goes_away_is_passed_over() -> None:
    cold, harness = kernel([ColdSet("csei", 8 * MIB, 9, "/a"), ColdSet("csei", MIB, 9, "/c")])

    def remove(path: str, _text: str) -> None:
        if path.startswith(f"{CGROUPS}/a/"):
            for table in (harness.machine.readers, harness.machine.writers):
                for each in [each for each in table if each.startswith(f"{CGROUPS}/a/")]:
                    del table[each]

    harness.worker.before_write = remove
    backend = harness.backends[BackendName.COLDPGS]
    wanted = step(Kind.ANON, 15, spared=("/a/b",))
    outcomes = [backend.run(wanted, Budget(2 * MIB, 0.1), harness.stop) for _ in range(3)]
    assert [each.status for each in outcomes] == [Status.OK, Status.OK, Status.EXHAUSTED]
    assert cold.sets[1].size_bytes == 0


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (step(Kind.ANON, 15, Scope(ScopeKind.PROCESS, pid=7)), "not processes"),
        (step(Kind.ANON, 0), "under one scan period"),
        (step(Kind.SLAB, 60), "does not look at memory of kind slab"),
    ],
)
def test_what_it_cannot_do_is_refused_with_a_reason(wanted: Step, said: str) -> None:
    _, harness = kernel([ColdSet("csei", 8 * MIB, 9, "/a")])
    outcome = harness.backends[BackendName.COLDPGS].run(wanted, Budget(MIB, 0.1), harness.stop)
    assert outcome.status is Status.FAILED
    assert said in outcome.note
    assert harness.machine.writes == []


def test_probe() -> None:
    _, harness = kernel([])
    found = harness.backends[BackendName.COLDPGS].probe()
    assert found.available
    assert found.reason == "coldpgs 2.5.0, ages in scan periods of 15 s"
    _, harness = kernel([], period=0)
    found = harness.backends[BackendName.COLDPGS].probe()
    assert not found.available
    assert "kidled is off" in found.reason
    found = Harness(FakeMachine()).backends[BackendName.COLDPGS].probe()
    assert not found.available
    assert "OpenAnolis" in found.reason
