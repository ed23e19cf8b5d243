# SPDX-License-Identifier: LGPL-2.1-or-later
"""The power source on fake trees: a laptop that is plugged in and out, devices that come and go."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hibprep.errors import NotPossibleError
from hibprep.events import DevicesChanged, PowerSupply, Signal, SourceChanged
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.supply import (
    Supply,
    battery_percent,
    drain,
    lid_switch_closed,
    on_mains,
    open_lid_switch,
    read_acpi_lid,
    read_low_power,
    read_supplies,
)
from hibprep.signals.power import Power, Uevents, open_udev
from hibprep.signals.priority import Happened, Watch
from tests.descriptors import descriptors
from tests.fakes.uevents import FakeUevents
from tests.listening import listening, only, until_told

SUPPLIES = "sys/class/power_supply"
HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


class SlowClock:
    """Ten seconds pass whenever somebody looks."""

    def __init__(self, step_seconds: float = 10.0) -> None:
        self.seconds = 0.0
        self.step_seconds = step_seconds

    def monotonic(self) -> float:
        self.seconds += self.step_seconds
        return self.seconds

    def boottime(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


class FakeWatch:
    def __init__(self, watches: dict[str, Happened], path: str, happened: Happened) -> None:
        self._watches, self._path = watches, path
        watches[path] = happened

    def close(self) -> None:
        del self._watches[self._path]


class Laptop:
    """A battery, a line, a lid, two profiles and a swap partition."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = KernelRoot(directory)
        self.clock = SlowClock()
        self.uevents = FakeUevents()
        self.watches: dict[str, Happened] = {}
        self.put(f"{SUPPLIES}/AC/type", "Mains")
        self.put(f"{SUPPLIES}/AC/online", "1")
        self.put(f"{SUPPLIES}/BAT0/type", "Battery")
        self.put(f"{SUPPLIES}/BAT0/present", "1")
        self.put(f"{SUPPLIES}/BAT0/status", "Charging")
        self.put(f"{SUPPLIES}/BAT0/capacity", "80")
        self.put("proc/acpi/button/lid/LID0/state", "state:      open")
        self.put("sys/firmware/acpi/platform_profile", "balanced")
        self.swaps("/dev/sda2")

    def put(self, path: str, text: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def swaps(self, *paths: str) -> None:
        lines = [f"{path} partition\t1000\t0\t-2" for path in paths]
        self.put("proc/swaps", HEADER + "\n".join(lines))

    def unplug(self) -> None:
        self.put(f"{SUPPLIES}/AC/online", "0")
        self.put(f"{SUPPLIES}/BAT0/status", "Discharging")

    def watch(self, descriptor: int, happened: Happened) -> Watch:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        return FakeWatch(self.watches, path.removeprefix(str(self.directory)), happened)

    def source(self) -> Power:
        return Power(self.root, self.clock, open_uevents=self.uevents, watch=self.watch)


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path.resolve())


def changes(told: list[Signal]) -> list[str]:
    return [each.what for each in only(DevicesChanged, told)]


def test_it_tells_at_once_and_then_what_changes(laptop: Laptop) -> None:
    async def scenario() -> None:
        source = laptop.source()
        source.refresh()  # not running: nothing
        before = descriptors()
        async with listening(source) as told:
            assert isinstance(told[0], SourceChanged)
            assert told[0].works
            assert "swap areas; power profile" in told[0].reason
            assert "kernel" in told[0].reason
            assert laptop.uevents.source == "kernel"
            assert only(PowerSupply, told) == [
                PowerSupply(mains=True, battery_percent=80.0, lid_closed=False, low_power=False)
            ]
            laptop.unplug()
            laptop.uevents.send("change power_supply AC", "change power_supply BAT0")
            await until_told(lambda: len(only(PowerSupply, told)) == 2, "it is unplugged")
            assert only(PowerSupply, told)[-1].mains is False
            # nothing new: nothing is said
            laptop.uevents.send("change power_supply BAT0", "add block sdb", "change block sdb")
            await until_told(lambda: changes(told), "a device came")
            assert changes(told) == ["block device sdb came"]
            assert len(only(PowerSupply, told)) == 2
        count = len(told)
        assert not laptop.watches
        assert len(descriptors()) == len(before) - 2  # those of the fake uevents
        laptop.put(f"{SUPPLIES}/BAT0/capacity", "5")
        source.refresh()
        assert len(told) == count

    asyncio.run(scenario())


def test_udev_is_listened_to_where_it_runs(laptop: Laptop) -> None:
    async def scenario() -> None:
        laptop.put("run/udev/control", "")
        async with listening(laptop.source()) as told:
            assert laptop.uevents.source == "udev"
            assert "uevents of udev" in str(told[0])

    asyncio.run(scenario())


def test_what_is_not_signalled_is_seen_by_refresh(laptop: Laptop) -> None:
    async def scenario() -> None:
        source = laptop.source()
        async with listening(source) as told:
            source.refresh()
            assert len(only(PowerSupply, told)) == 1
            laptop.put(f"{SUPPLIES}/BAT0/capacity", "79")
            laptop.put("proc/acpi/button/lid/LID0/state", "state:      closed")
            source.refresh()
            assert only(PowerSupply, told)[-1] == PowerSupply(
                mains=True, battery_percent=79.0, lid_closed=True
            )
            laptop.swaps()
            source.refresh()
            laptop.swaps("/dev/sda2", "/swap\\040file")
            source.refresh()
            assert changes(told) == [
                "swap area /dev/sda2 went",
                "swap area /dev/sda2 came, swap area /swap file came",
            ]

    asyncio.run(scenario())


def test_batteries_are_not_asked_all_the_time(laptop: Laptop) -> None:
    async def scenario() -> None:
        source = laptop.source()
        async with listening(source) as told:
            laptop.clock.step_seconds = 0.01
            laptop.put(f"{SUPPLIES}/BAT0/capacity", "79")
            source.refresh()
            assert len(only(PowerSupply, told)) == 1
            laptop.clock.seconds += 1
            source.refresh()
            assert len(only(PowerSupply, told)) == 2

    asyncio.run(scenario())


def test_swaps_and_the_profile_are_waited_for(laptop: Laptop) -> None:
    async def scenario() -> None:
        async with listening(laptop.source()) as told:
            assert set(laptop.watches) == {"/proc/swaps", "/sys/firmware/acpi/platform_profile"}
            laptop.swaps("/dev/sda2", "/dev/sdb1")
            laptop.watches["/proc/swaps"](True)  # noqa: FBT003 - POLLERR is always there
            assert changes(told) == ["swap area /dev/sdb1 came"]
            laptop.watches["/proc/swaps"](True)  # noqa: FBT003
            assert changes(told)[1:] == ["swap areas changed"]
            laptop.put("sys/firmware/acpi/platform_profile", "low-power")
            laptop.watches["/sys/firmware/acpi/platform_profile"](True)  # noqa: FBT003
            assert only(PowerSupply, told)[-1].low_power
            assert len(laptop.watches) == 2

    asyncio.run(scenario())


def test_lost_events_are_made_up_for_by_a_look(laptop: Laptop) -> None:
    async def scenario() -> None:
        async with listening(laptop.source()) as told:
            laptop.unplug()
            devices = [f"remove block sd{letter}" for letter in "bcdefg"]
            laptop.uevents.send(str(errno.ENOBUFS), *devices)
            await until_told(lambda: changes(told), "something was lost")
            assert only(PowerSupply, told)[-1].mains is False
            assert all("block device sd" in each or "lost" in each for each in changes(told))

    asyncio.run(scenario())


def test_many_devices_are_not_all_named(laptop: Laptop) -> None:
    async def scenario() -> None:
        async with listening(laptop.source()) as told:
            laptop.uevents.send(*(f"remove block sd{letter}" for letter in "bcdefg"))
            await until_told(lambda: changes(told), "they went")
            assert changes(told)[0].startswith("block device sdb went, block device sdc went, ")
            assert changes(told)[0].endswith(" and 2 more")

    asyncio.run(scenario())


def test_another_error_ends_the_run(laptop: Laptop) -> None:
    async def scenario() -> None:
        told: list[Signal] = []
        task = asyncio.create_task(laptop.source().run(told.append))
        await until_told(lambda: only(PowerSupply, told), "it works")
        laptop.uevents.send(str(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await task
        assert not laptop.watches

    asyncio.run(scenario())


def test_without_netlink_the_rest_goes_on(laptop: Laptop) -> None:
    def refuse(source: str) -> Uevents:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    async def scenario() -> None:
        # an ordinary file cannot be waited for either
        source = Power(laptop.root, laptop.clock, open_uevents=refuse)
        async with listening(source) as told:
            assert isinstance(told[0], SourceChanged)
            assert told[0].works
            assert "Address family" in told[0].reason
            assert "swap areas" not in told[0].reason
            laptop.unplug()
            source.refresh()
            assert only(PowerSupply, told)[-1].mains is False
        laptop.uevents.close()

    asyncio.run(scenario())


def test_a_machine_with_nothing_to_tell(tmp_path: Path) -> None:
    async def scenario() -> None:
        source = Power(KernelRoot(tmp_path), SlowClock(), open_uevents=FakeUevents())
        async with listening(source) as told:
            assert only(PowerSupply, told) == [PowerSupply()]
            assert not changes(told)

    asyncio.run(scenario())


def test_pyudev_that_is_missing_is_said_with_the_cure(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyudev", None)
    with pytest.raises(NotPossibleError, match="install pyudev"):
        asyncio.run(Power(laptop.root, laptop.clock, open_uevents=open_udev).run(lambda _: None))
    laptop.uevents.close()


def test_the_lids_switch_wakes_up(laptop: Laptop) -> None:
    """A FIFO stands for the device: readable when moved, at its end when it was taken out. It knows
    no EVIOCGSW, so that the state is read where ACPI has it."""
    laptop.put("sys/class/input/event0/device/capabilities/sw", "0")
    laptop.put("sys/class/input/event3/device/capabilities/sw", "1 0000000000000021")
    (laptop.directory / "dev/input").mkdir(parents=True)
    fifo = laptop.directory / "dev/input/event3"
    os.mkfifo(fifo)

    async def scenario() -> None:
        keeper = os.open(fifo, os.O_RDWR)
        async with listening(laptop.source()) as told:
            assert isinstance(told[0], SourceChanged)
            assert told[0].reason.endswith("; lid")
            laptop.put("proc/acpi/button/lid/LID0/state", "state:      closed")
            os.write(keeper, b"x" * 24)
            await until_told(lambda: len(only(PowerSupply, told)) == 2, "the lid is closed")
            assert only(PowerSupply, told)[-1].lid_closed
            # taken out: it must not be asked for ever
            laptop.put("proc/acpi/button/lid/LID0/state", "state:      open")
            os.close(keeper)
            await until_told(lambda: len(only(PowerSupply, told)) == 3, "the device is gone")

    asyncio.run(scenario())


def test_no_switch_and_no_acpi_is_an_unknown_lid(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)
    laptop.uevents.close()
    assert open_lid_switch(laptop.root) is None
    laptop.put("sys/class/input/event0/device/capabilities/sw", "1")
    assert open_lid_switch(laptop.root) is None  # no node in /dev
    laptop.put("proc/acpi/button/lid/LID0/state", "unsupported")
    assert read_acpi_lid(laptop.root) is None
    with (tmp_path / "x").open("wb") as file:
        assert lid_switch_closed(file.fileno()) is None
        assert not drain(file.fileno())


@pytest.mark.parametrize(
    ("found", "mains", "percent"),
    [
        ((), None, None),
        ((Supply("Mains", online=True),), True, None),
        ((Supply("USB", online=False),), None, None),  # a desktop's port
        ((Supply("Mains", online=False), Supply("Battery", percent=50.0)), False, 50.0),
        ((Supply("Battery", status="Discharging", percent=9.6),), False, 10.0),
        ((Supply("Battery", status="Full", percent=100.0),), True, 100.0),
        ((Supply("Battery", status="Unknown"),), None, None),
        # a line too weak for what is used
        ((Supply("USB", online=True), Supply("Battery", status="Discharging")), True, None),
        ((Supply("Mains", online=True), Supply("UPS", status="Discharging")), False, None),
    ],
)
def test_what_feeds_the_machine(
    found: tuple[Supply, ...],
    mains: bool | None,  # noqa: FBT001 - a parameter of the table
    percent: float | None,
) -> None:
    assert on_mains(found) is mains
    assert battery_percent(found) == percent


def test_batteries_count_by_what_they_hold() -> None:
    small = Supply("Battery", percent=100.0, energy_full=10_000_000, charge_full=1)
    large = Supply("Battery", percent=0.0, energy_full=30_000_000, charge_full=1)
    assert battery_percent([small, large]) == 25.0
    assert battery_percent([small, large._replace(energy_full=None)]) == 50.0
    assert battery_percent([small._replace(charge_full=0), large._replace(energy_full=0)]) == 50.0


def test_supplies_are_read_as_drivers_write_them(laptop: Laptop) -> None:
    laptop.uevents.close()
    laptop.put(f"{SUPPLIES}/mouse/type", "Battery")
    laptop.put(f"{SUPPLIES}/mouse/scope", "Device")
    laptop.put(f"{SUPPLIES}/BAT1/type", "Battery")
    laptop.put(f"{SUPPLIES}/BAT1/present", "0")
    laptop.put(f"{SUPPLIES}/BAT2/type", "Battery")
    laptop.put(f"{SUPPLIES}/BAT2/energy_now", "30")
    laptop.put(f"{SUPPLIES}/BAT2/energy_full", "40")
    laptop.put(f"{SUPPLIES}/BAT3/type", "Battery")
    laptop.put(f"{SUPPLIES}/BAT3/capacity", "-19")
    laptop.put(f"{SUPPLIES}/BAT4/type", "Battery")
    laptop.put(f"{SUPPLIES}/BAT4/capacity", "104")
    laptop.put(f"{SUPPLIES}/usb/type", "USB")
    laptop.put(f"{SUPPLIES}/usb/online", "2")
    assert read_supplies(laptop.root) == (
        Supply("Mains", online=True),
        Supply("Battery", status="Charging", percent=80.0),
        Supply("Battery", percent=75.0, energy_full=40),
        Supply("Battery"),
        Supply("Battery", percent=100.0),
        Supply("USB", online=True),
    )
    assert not read_low_power(laptop.root)
