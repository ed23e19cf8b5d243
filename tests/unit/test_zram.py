# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in zram: written back in chunks, or let out of it where that fits at every moment, and
back in use whatever happens."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hibprep import fitting
from hibprep.errors import KernelFileError, KernelFileMalformed
from hibprep.kernel.areasaway import AreasAway, parse_record
from hibprep.kernel.knobs import KnobJournal
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.snapshot import read_snapshot
from hibprep.kernel.swapcall import swap_off, swap_on
from hibprep.kernel.zram import read_zram
from hibprep.model import Limits, Snapshot, SwapArea, Zram
from hibprep.reclaim.base import WriteResult
from hibprep.zramguard import margin_bytes, may_go_on, may_leave, room_bytes
from hibprep.zramrun import WayOut, WriteBack
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

from .strategies import snapshots

RESUME = "254:16"
ZRAM = "/dev/zram0"
SYS = "/sys/block/zram0"


def machine(
    *,
    in_zram: int = 600 * MIB,
    resident: int = 500 * MIB,
    disk: int = 8 * GIB,
    priority: int = 100,
    total: int = 4 * GIB,
    backing: str = "",
) -> FakeMachine:
    anon = AnonSet(resident, idle_seconds=500, swapped_bytes=in_zram)
    swaps = [
        FakeSwap(
            ZRAM, 2 * GIB, priority, used_bytes=in_zram, is_zram=True, device="252:0",
            backing=backing, backing_free_bytes=GIB,
        )
    ]  # fmt: skip
    if disk:
        swaps.append(FakeSwap("/dev/vdb", disk, device=RESUME))
    return FakeMachine(
        total_bytes=total,
        cgroups=[FakeCgroup("/a.slice", anon=[anon])],
        swaps=swaps,
        resume_device=RESUME,
        bytes_per_second=200e6,
    )


def area(fake: FakeMachine) -> FakeSwap:
    return next(each for each in fake.swaps if each.path == ZRAM)


# --- written back -----------------------------------------------------------------------------


class Back:
    """Writing back on a fake machine, with a real journal."""

    def __init__(self, fake: FakeMachine, directory: Path) -> None:
        self.root = FakeRoot(fake, directory)
        self.worker = FakeWorker(self.root, fake)
        self.stop = FakeStop(fake)
        self.journal = KnobJournal(self.root)
        self.write_back = WriteBack(
            self.root, self.worker, self.journal.set, FakeClock(fake), chunk_seconds=0.1
        )

    def run(self) -> list[str]:
        try:
            return self.write_back.run(self.stop)
        finally:
            self.journal.restore_all()

    @property
    def chunks(self) -> int:
        return sum(path.endswith("/writeback") for path, _ in self.worker.requests)


def test_all_of_it_is_written_in_chunks_and_the_switch_is_put_back(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")
    back = Back(fake, tmp_path)
    before = fake.free_bytes
    assert back.run() == ["zram0: 600.0 MiB written to /dev/vdc1, 200.0 MiB of memory gained"]
    assert area(fake).written_bytes == 600 * MIB
    assert fake.free_bytes - before == 200 * MIB
    assert back.chunks > 10  # none much longer than the tenth of a second that was asked for
    assert not area(fake).writeback_limited


def test_a_slow_device_does_not_make_ever_smaller_chunks(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")
    fake.bytes_per_second = 1e6
    back = Back(fake, tmp_path)
    back.run()
    assert back.chunks <= 65  # each looks at every slot first


def test_it_ends_with_the_chunk_in_which_it_is_told_to(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")
    back = Back(fake, tmp_path)

    def after_three(path: str, text: str) -> None:
        if back.chunks == 3:
            back.stop.request("interrupted by SIGINT")

    back.worker.before_write = after_three
    (words,) = back.run()
    assert words.endswith("of memory gained; interrupted by SIGINT")
    assert back.chunks == 3
    assert 0 < area(fake).written_bytes < 100 * MIB
    assert not area(fake).writeback_limited


def test_without_a_device_behind_it_nothing_is_touched(tmp_path: Path) -> None:
    fake = machine()
    back = Back(fake, tmp_path)
    (words,) = back.run()
    assert "no device behind it" in words
    assert fake.writes == []


def test_somebodys_account_is_left_alone(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")
    area(fake).writeback_limited, area(fake).writeback_limit = True, 77
    back = Back(fake, tmp_path)
    (words,) = back.run()
    assert "writeback_limit" in words
    assert fake.writes == []
    assert area(fake).writeback_limit == 77


def test_a_full_device_ends_it_with_what_was_reached(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")
    area(fake).backing_free_bytes = 100 * MIB
    (words,) = Back(fake, tmp_path).run()
    assert "100.0 MiB written to /dev/vdc1" in words
    assert "No space left" in words
    assert not area(fake).writeback_limited


def test_an_error_of_the_disk_is_not_taken_for_the_end_of_a_chunk(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")

    def broken(text: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fake.writers[f"{SYS}/writeback"] = broken
    back = Back(fake, tmp_path)
    (words,) = back.run()
    assert "Input/output error" in words
    assert back.chunks == 1


def test_a_device_that_writes_nothing_any_more_ends_it(tmp_path: Path) -> None:
    fake = machine(backing="/dev/vdc1")

    def spent(text: str) -> None:
        area(fake).writeback_limit = 0
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fake.writers[f"{SYS}/writeback"] = spent
    (words,) = Back(fake, tmp_path).run()
    assert "nothing is written any more" in words


@pytest.mark.parametrize(
    ("text", "sound"), [("1 2 3 0", True), ("1 2", False), ("", False), ("1 2 x", False)]
)
def test_what_a_device_holds_is_read_or_malformed(tmp_path: Path, text: str, sound: bool) -> None:  # noqa: FBT001
    (tmp_path / "sys/block/zram0").mkdir(parents=True)
    (tmp_path / "sys/block/vda").mkdir()
    (tmp_path / "sys/block/zram0/mm_stat").write_text(f"{text}\n")
    if sound:
        assert read_zram(KernelRoot(tmp_path)) == (
            Zram(name="zram0", original_bytes=1, used_bytes=3),
        )
    else:
        with pytest.raises(KernelFileMalformed):
            read_zram(KernelRoot(tmp_path))
    assert read_zram(KernelRoot(tmp_path / "nowhere")) == ()


# --- whether it may be switched off ----------------------------------------------------------


@st.composite
def areas_of_zram(draw: st.DrawFn) -> tuple[Snapshot, SwapArea, Zram]:
    snapshot = draw(snapshots(zram=False, roomy=draw(st.booleans())))
    total = snapshot.memory.total_bytes
    used = draw(st.integers(0, total // MIB)) * MIB
    found = SwapArea(
        path=ZRAM,
        is_file=False,
        size_bytes=total,
        used_bytes=used,
        priority=draw(st.sampled_from([100, 100, 5, 0, -2])),
        device="252:0",
        is_zram=True,
    )
    pool = min(used // 3, total // 4)
    device = Zram(
        name="zram0", original_bytes=draw(st.sampled_from([0, used, 2 * used])), used_bytes=pool
    )
    swaps = (*snapshot.swaps, found)
    return replace(snapshot, swaps=swaps, zram_used_bytes=pool), found, device


@settings(deadline=None)
@given(areas_of_zram())
def test_it_is_never_switched_off_where_it_does_not_fit_or_would_do_harm(
    given_area: tuple[Snapshot, SwapArea, Zram],
) -> None:
    snapshot, found, device = given_area
    verdict = may_leave(snapshot, found, device, Limits())
    disks = [each for each in snapshot.swaps if not each.is_zram]
    data = max(found.used_bytes, device.original_bytes)
    if verdict.ok:
        assert found.priority >= 0
        assert disks
        assert snapshot.memory.free_bytes + sum(
            each.free_bytes for each in disks
        ) >= data + margin_bytes(snapshot)
        before = fitting.fit(snapshot, Limits())
        if before.ok:
            active = snapshot.memory.active_anon_bytes + min(
                data, snapshot.memory.free_bytes + snapshot.zram_used_bytes
            )
            assert active <= 0.98 * before.systemd_has_bytes
        assert may_go_on(snapshot, ZRAM)
    else:
        assert verdict.reason


def test_where_it_may_not_the_reason_says_why() -> None:
    for fake, word in (
        (machine(priority=-2), "--priority 100"),
        (machine(disk=0), "no swap on a disk"),
        (machine(in_zram=GIB, disk=200 * MIB, total=2 * GIB, resident=900 * MIB), "are missing"),
        # it fits, and then systemd would refuse: more may be active than there is swap
        (machine(in_zram=2 * GIB, disk=1300 * MIB, total=8 * GIB), "would refuse"),
    ):
        root = FakeRoot(fake)
        found = next(each for each in read_snapshot(root).swaps if each.is_zram)
        verdict = may_leave(read_snapshot(root), found, read_zram(root)[0], Limits())
        assert not verdict.ok
        assert word in verdict.reason


# --- out, and in use again ---------------------------------------------------------------------


class Out:
    """The way out on a fake machine."""

    def __init__(self, fake: FakeMachine, directory: Path) -> None:
        self.fake = fake
        self.root = FakeRoot(fake, directory)
        self.worker = FakeWorker(self.root, fake)
        self.stop = FakeStop(fake)
        self.record = AreasAway(self.root, swap_on=self.swap_on)
        self.refused: int = 0
        self.way_out = WayOut(
            self.root, self.worker, self.record, look=lambda: read_snapshot(self.root)
        )

    def swap_on(self, _root: KernelRoot, path: str, priority: int) -> None:
        if self.refused:
            raise OSError(self.refused, os.strerror(self.refused))
        assert all(each.path != path for each in self.fake.swaps)
        self.fake.swaps.append(FakeSwap(path, 2 * GIB, priority, is_zram=True, device="252:0"))

    @property
    def records(self) -> list[Path]:
        return sorted((self.root.prefix / "run/hibprep").glob("swapoff-*"))


def test_it_is_off_within_and_in_use_again_after(tmp_path: Path) -> None:
    fake = machine()
    out, told = Out(fake, tmp_path), list[str]()
    on_record: list[bool] = []
    out.worker.before_write = lambda *_: on_record.append(bool(out.records))
    with out.way_out.away(Limits(), out.stop, told.append):
        assert [each.path for each in fake.swaps] == ["/dev/vdb"]
        assert out.records
        assert fake.zram_pool_bytes == 0
        assert fake.cgroup("/a.slice").anon_bytes == 1100 * MIB
    assert on_record
    assert all(on_record)  # it was there before anything was done
    assert area(fake).priority == 100
    assert out.records == []
    assert told == [
        f"swap on {ZRAM}: off until after the resume; 600.0 MiB are read back from it",
        f"{ZRAM} is in use as swap again, with priority 100",
    ]


def test_a_stop_leaves_it_on(tmp_path: Path) -> None:
    fake = machine(in_zram=GIB)
    out, told = Out(fake, tmp_path), list[str]()
    out.worker.before_write = lambda *_: out.stop.request("interrupted by SIGINT")
    with out.way_out.away(Limits(), out.stop, told.append):
        assert area(fake).used_bytes > 0
        assert not area(fake).leaving
    assert told == [f"swap on {ZRAM}: left on: interrupted by SIGINT"]
    assert area(fake).priority == 100
    assert out.records == []


def test_what_goes_wrong_within_brings_it_back_too(tmp_path: Path) -> None:
    fake = machine()
    out = Out(fake, tmp_path)
    with pytest.raises(KeyError), out.way_out.away(Limits(), out.stop, lambda _: None):
        raise KeyError
    assert area(fake).priority == 100


def test_where_it_cannot_be_recorded_it_stays_on(tmp_path: Path) -> None:
    fake = machine()
    out, told = Out(fake, tmp_path), list[str]()
    with out.way_out.away(Limits(), out.stop, told.append):
        pass
    assert len(told) == 2
    (tmp_path / "run/hibprep/lock").unlink()
    (tmp_path / "run/hibprep").rmdir()
    (tmp_path / "run/hibprep").write_text("not a directory")
    used = area(fake).used_bytes = 100 * MIB
    with pytest.raises(KernelFileError):
        out.record.note(ZRAM, 100)
    told = out.way_out.leave(Limits(), out.stop)
    assert "left on" in told[0]
    assert area(fake).used_bytes == used


def test_one_that_cannot_be_switched_on_stays_on_record(tmp_path: Path) -> None:
    fake = machine()
    out, told = Out(fake, tmp_path), list[str]()
    out.refused = errno.EBUSY
    with out.way_out.away(Limits(), out.stop, told.append):
        pass
    assert f"swapon --priority 100 {ZRAM} does it" in told[1]
    assert out.records
    out.refused = 0
    assert out.record.put_back() == [f"{ZRAM} is in use as swap again, with priority 100"]
    assert out.records == []
    assert out.record.put_back() == []


def test_a_device_that_is_gone_is_told_and_forgotten(tmp_path: Path) -> None:
    out, told = Out(machine(), tmp_path), list[str]()
    out.refused = errno.ENOENT
    with out.way_out.away(Limits(), out.stop, told.append):
        pass
    assert told[1] == f"{ZRAM} is gone: nothing to switch on"
    assert out.records == []


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_at_no_moment_does_it_go_on_where_the_rest_does_not_fit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fake = machine(
        in_zram=data.draw(st.integers(1, 2000)) * MIB,
        resident=data.draw(st.integers(100, 1500)) * MIB,
        disk=data.draw(st.integers(1, 60)) * 100 * MIB,
    )
    out = Out(fake, tmp_path_factory.mktemp("out"))
    greed = data.draw(st.lists(st.integers(0, 900), max_size=12))
    killed: list[str] = []

    def others_allocate(path: str, text: str) -> None:
        snapshot = read_snapshot(out.root)
        left = sum(each.used_bytes for each in snapshot.swaps if each.path == path)
        if room_bytes(snapshot) < left:
            killed.append("the kernel would have to kill")
        amount = min((greed.pop(0) if greed else 0) * MIB, max(0, fake.free_bytes - 4 * MIB))
        if amount:
            fake.cgroup("/a.slice").anon.append(AnonSet(amount, last_used=fake.now))

    out.worker.before_write = others_allocate
    told: list[str] = []
    with out.way_out.away(Limits(), out.stop, told.append):
        is_on = any(each.path == ZRAM for each in fake.swaps)
        assert is_on == ("left on" in told[0])
    assert killed == []
    assert (area(fake).priority, area(fake).leaving) == (100, False)
    assert out.records == []


# --- the record ------------------------------------------------------------------------------


def test_another_root_is_never_swapped_off(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another root"):
        swap_off(KernelRoot(tmp_path), ZRAM)
    with pytest.raises(OSError, match="another root"):
        swap_on(KernelRoot(tmp_path), ZRAM, 100)
    with pytest.raises(ValueError, match="priority"):
        swap_on(KernelRoot(), "/nonexistent", -2)
    with pytest.raises(FileNotFoundError):
        swap_on(KernelRoot(), "/nonexistent/zram0", 5)


def record_of(area_path: object = ZRAM, priority: object = 100, **changes: object) -> bytes:
    areas = [{"path": area_path, "priority": priority}]
    return json.dumps({"version": 1, "boot": "b", "areas": areas} | changes).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"[" * 5000,
        record_of(version=2),
        record_of(boot=1),
        record_of("/dev/sda1"),
        record_of("/dev/zram0/../sda1"),
        record_of(ZRAM, -2),
        record_of(ZRAM, "100"),
        record_of(ZRAM, True),  # noqa: FBT003
        record_of(ZRAM, 40000),
        record_of(areas=3),
    ],
)
def test_no_record_is_believed(data: bytes) -> None:
    with pytest.raises(KernelFileMalformed):
        parse_record("swapoff-1-1.json", data)
    assert parse_record("swapoff-1-1.json", record_of()) == ("b", {ZRAM: 100})


@given(st.binary())
def test_any_record_is_taken_or_malformed(data: bytes) -> None:
    with contextlib.suppress(KernelFileMalformed):
        parse_record("swapoff-1-1.json", data)


def test_what_cannot_be_read_of_a_dead_process_is_put_aside(tmp_path: Path) -> None:
    run = tmp_path / "run/hibprep"
    run.mkdir(parents=True)
    (run / "swapoff-4194305-1.json").write_bytes(b"{")
    out = Out(machine(), tmp_path)
    (words,) = out.record.recover()
    assert "nothing put back" in words
    assert [each.suffix for each in out.records] == [".corrupt"]
    assert out.record.recover() == []


def test_a_record_of_another_boot_is_dropped(tmp_path: Path) -> None:
    run = tmp_path / "run/hibprep"
    run.mkdir(parents=True)
    (run / "swapoff-4194305-1.json").write_bytes(record_of(boot="another"))
    out = Out(machine(), tmp_path)
    out.fake.swaps.pop(0)
    assert out.record.recover() == []
    assert out.records == []
    assert all(each.path != ZRAM for each in out.fake.swaps)


# A machine of one file, /proc/swaps: the child switches off and on, and is killed at any moment.
HEADER = "Filename\tType\tSize\tUsed\tPriority\n"
LINE = f"{ZRAM} partition 1048572 4 100\n"
CHILD = f"""
import sys
from pathlib import Path
from hibprep.kernel.areasaway import AreasAway
from hibprep.kernel.root import KernelRoot
root = KernelRoot(sys.argv[1])
swaps = root.path("/proc/swaps")
def put(text):
    new = swaps.with_name("swaps.new")
    new.write_text(text)
    new.replace(swaps)
print("begun", flush=True)
while True:
    away = AreasAway(root, swap_on=lambda root, path, priority: put({HEADER + LINE!r}))
    away.note({ZRAM!r}, 100)
    put({HEADER!r})
    for _ in range(100):
        root.read("/proc/swaps")
    away.put_back()
"""


_KILLS = 30


@pytest.mark.must
def test_a_kill_at_any_moment_leaves_no_swap_off(tmp_path: Path) -> None:
    random = Random(20261121)  # noqa: S311 - moments, not secrets
    left_off = 0
    for number in range(300):
        if number >= _KILLS and left_off > _KILLS // 10:
            break
        directory = tmp_path / str(number)
        (directory / "proc").mkdir(parents=True)
        swaps = directory / "proc/swaps"
        swaps.write_text(HEADER + LINE)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                child.wait(random.uniform(0.0, 0.02))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        asked: list[tuple[str, int]] = []

        def on(root: KernelRoot, path: str, priority: int, swaps: Path = swaps) -> None:
            asked.append((path, priority))  # noqa: B023 - called before the next round
            swaps.write_text(HEADER + LINE)

        was_off = swaps.read_text() == HEADER
        left_off += was_off
        AreasAway(KernelRoot(directory), swap_on=on).recover()
        assert asked == ([(ZRAM, 100)] if was_off else []), number
        assert swaps.read_text() == HEADER + LINE
        assert not list((directory / "run/hibprep").glob("swapoff-*.json"))
    assert left_off > _KILLS // 10  # else the kills came too early to be worth anything


def test_the_worker_ends_a_swapoff_that_is_not_wanted_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # a worker whose child never answers: what counts is that it is killed when `watch` says no
    from hibprep.reclaim import worker as module  # noqa: PLC0415
    from hibprep.reclaim.base import Stop  # noqa: PLC0415

    monkeypatch.setattr(module, "_PROGRAM", "import sys; sys.stdin.read()")
    process_worker = module.ProcessWorker(str(tmp_path))
    answers = iter([True, True, False])
    stop = Stop()
    try:
        result: WriteResult = process_worker.swap_off(ZRAM, stop, lambda: next(answers))
    finally:
        stop.close()
    assert result.stopped
    assert process_worker.pid is None
    assert next(answers, None) is None
