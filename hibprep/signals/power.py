# SPDX-License-Identifier: LGPL-2.1-or-later
"""What feeds the machine, and swap areas and block devices that come and go.

Told by uevents (pyudev on the loop), by POLLPRI on /proc/swaps and on the platform's profile, and
by the lid's switch; nothing is looked at periodically. Batteries do not tell every percent, and a
lid that only /proc/acpi shows tells nothing: `refresh` looks at all of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hibprep.clock import Clock
from hibprep.errors import KernelFileDenied, KernelFileMissing, NotPossibleError
from hibprep.events import DevicesChanged, PowerSupply, SourceChanged, SourceName
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.supply import (
    PLATFORM_PROFILE,
    battery_percent,
    drain,
    lid_switch_closed,
    on_mains,
    open_lid_switch,
    open_watched,
    read_acpi_lid,
    read_low_power,
    read_supplies,
    rearm,
)
from hibprep.kernel.swaps import SWAPS, parse_swaps
from hibprep.signals.base import Emit
from hibprep.signals.priority import PriorityWatch, Watcher
from hibprep.signals.running import Running

if TYPE_CHECKING:
    import pyudev  # type: ignore[import-untyped]

UDEV_CONTROL = "/run/udev/control"  # is there while udev runs

_SUBSYSTEMS = ("power_supply", "block")
_WORDS = {"add": "came", "remove": "went"}
_MOST_NAMED = 4
# asking a battery is work for the firmware; the kernel's ACPI driver answers from what it has for
# so long (cache_time in drivers/acpi/battery.c)
_FRESH_SECONDS = 1.0


class Uevent(NamedTuple):
    """One message of the kernel or udev about a device."""

    action: str  # add, remove, change …
    subsystem: str
    name: str


class Uevents(Protocol):
    """Where they come from."""

    def fileno(self) -> int:
        """A descriptor that is readable when there are some."""

    def receive(self) -> Uevent | None:
        """The next one, None when there is none now. Raises OSError; with errno ENOBUFS when some
        were lost, after which it goes on."""

    def close(self) -> None:
        """Give the descriptor back."""


class UdevMonitor:
    """The uevents of some subsystems, by libudev."""

    def __init__(self, monitor: pyudev.Monitor, subsystems: Iterable[str]) -> None:
        self._monitor: pyudev.Monitor | None = monitor
        for subsystem in subsystems:
            monitor.filter_by(subsystem)
        monitor.start()

    def fileno(self) -> int:
        """See `Uevents.fileno`."""
        return -1 if self._monitor is None else int(self._monitor.fileno())

    def receive(self) -> Uevent | None:
        """See `Uevents.receive`."""
        if self._monitor is None:
            return None
        try:
            device = self._monitor.poll(timeout=0)
        except OSError as error:
            # pyudev sees POLLERR and leaves the error where it is and nameless: until it is taken
            # the descriptor stays ready
            pending = self._take_error()
            if pending:
                raise OSError(pending, os.strerror(pending)) from error
            raise
        if device is None:
            return None
        return Uevent(device.action or "", device.subsystem or "", device.sys_name)

    def close(self) -> None:
        """See `Uevents.close`. libudev closes when the last reference goes; it offers no more."""
        self._monitor = None

    def _take_error(self) -> int:
        # a second descriptor of the same socket, so that closing it leaves libudev's alone
        with socket.socket(fileno=os.dup(self.fileno())) as same:
            return same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def open_udev(source: str, subsystems: Iterable[str] = _SUBSYSTEMS) -> Uevents:
    """The uevents of "udev" or "kernel". Raises OSError when there is no netlink for us, and
    NotPossibleError without pyudev or libudev."""
    try:
        # costs 20 ms, and only the daemon needs it
        import pyudev  # noqa: PLC0415

        context = pyudev.Context()
    except ImportError as error:
        raise NotPossibleError(
            f"no device events ({error})", "install pyudev (python3-pyudev) and libudev"
        ) from error
    return UdevMonitor(pyudev.Monitor.from_netlink(context, source=source), subsystems)


class Power:
    """The power supply, the lid, the power profile, swap areas and block devices."""

    name = SourceName.POWER

    def __init__(
        self,
        root: KernelRoot,
        clock: Clock,
        *,
        open_uevents: Callable[[str], Uevents] = open_udev,
        watch: Watcher = PriorityWatch,
    ) -> None:
        self._root = root
        self._clock = clock
        self._open_uevents = open_uevents
        self._watch = watch
        self._running: Running | None = None
        self._told: PowerSupply | None = None
        self._swaps: frozenset[tuple[str, int]] | None = None
        self._lid: int | None = None
        self._looked_at = 0.0

    async def run(self, emit: Emit) -> None:
        """Tell changes until cancelled. Raises NotPossibleError without pyudev; where there are no
        uevents for us (a container), it goes on with the rest."""
        running = Running(emit)
        with contextlib.ExitStack() as held:
            # first whatever wakes us up, then a look, so that nothing falls in between
            held.callback(self._forget)
            how = self._listen(running, held)
            self._running = running
            emit(SourceChanged(self.name, works=True, reason=how))
            self._look()
            await running.until_failed()

    def refresh(self) -> None:
        """Look at everything, unless that was done within the last second; to be called now and
        then. Nothing is done while the source does not run. What goes wrong ends `run`."""
        if self._running is None or self._clock.monotonic() - self._looked_at < _FRESH_SECONDS:
            return
        self._running.attempt(self._look)

    def _listen(self, running: Running, held: contextlib.ExitStack) -> str:
        """Wait for all that tells changes, until `held` is closed; how it is done, in words."""
        loop = running.loop
        source = "udev" if self._root.exists(UDEV_CONTROL) else "kernel"
        try:
            uevents = self._open_uevents(source)
        except OSError as error:
            how = f"looked at now and then: no uevents ({error})"
        else:
            held.callback(uevents.close)
            descriptor = uevents.fileno()
            receive = functools.partial(self._receive, uevents)
            loop.add_reader(descriptor, running.attempt, receive)
            held.callback(loop.remove_reader, descriptor)
            how = "uevents of udev" if source == "udev" else "uevents of the kernel, without udev"
        waiting = [
            name
            for name, path, happened in (
                ("swap areas", SWAPS, self._swaps_moved),
                ("power profile", PLATFORM_PROFILE, self._look),
            )
            if self._wait_for(path, happened, running, held)
        ]
        self._lid = open_lid_switch(self._root)
        if self._lid is not None:
            lid = self._lid
            held.callback(os.close, lid)
            # an ordinary file in a relocated root cannot be waited for
            with contextlib.suppress(PermissionError):
                loop.add_reader(lid, running.attempt, self._lid_moved)
                held.callback(loop.remove_reader, lid)
                waiting.append("lid")
        return "; ".join([how, *waiting])

    def _wait_for(
        self, path: str, look: Callable[[], None], running: Running, held: contextlib.ExitStack
    ) -> bool:
        """Have `look` called at POLLPRI on `path`; whether that is possible."""
        try:
            descriptor = open_watched(self._root, path)
        except (KernelFileMissing, KernelFileDenied):
            return False
        opened = held.enter_context(contextlib.ExitStack())
        opened.callback(os.close, descriptor)

        def happened(_: bool) -> None:  # noqa: FBT001 - see Happened
            if not rearm(descriptor):
                # its driver is gone, and it would be ready for ever
                opened.close()
            running.attempt(look)

        try:
            opened.callback(self._watch(descriptor, happened).close)
        except PermissionError:
            # an ordinary file, in a relocated root, or a kernel that cannot tell
            opened.close()
            return False
        return True

    def _forget(self) -> None:
        self._running = self._told = self._swaps = self._lid = None

    def _receive(self, uevents: Uevents) -> None:
        """Take all uevents there are."""
        changes: list[str] = []
        seen = lost = False
        while True:
            try:
                uevent = uevents.receive()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if uevent is None:
                break
            seen = True
            if uevent.subsystem == "block" and uevent.action in _WORDS:
                changes.append(f"block device {uevent.name} {_WORDS[uevent.action]}")
        if lost:
            changes.append("events of devices were lost")
        self._devices_changed(changes)
        if seen or lost:
            self._look()

    def _swaps_moved(self) -> None:
        before = self._swaps
        self._look_at_swaps()
        if before is not None and before == self._swaps:
            # it went and came again, perhaps as another one
            self._devices_changed(["swap areas changed"])

    def _lid_moved(self) -> None:
        if self._running is None or self._lid is None:
            return
        if not drain(self._lid):
            # the device is gone, and its descriptor would be readable for ever
            self._running.loop.remove_reader(self._lid)
            self._lid = None
        self._look()

    def _look(self) -> None:
        self._looked_at = self._clock.monotonic()
        supplies = read_supplies(self._root)
        lid = None if self._lid is None else lid_switch_closed(self._lid)
        found = PowerSupply(
            mains=on_mains(supplies),
            battery_percent=battery_percent(supplies),
            lid_closed=read_acpi_lid(self._root) if lid is None else lid,
            low_power=read_low_power(self._root),
        )
        if found != self._told:
            self._told = found
            self._emit(found)
        self._look_at_swaps()

    def _look_at_swaps(self) -> None:
        try:
            areas = parse_swaps(self._root.read(SWAPS))
        except (KernelFileMissing, KernelFileDenied):
            areas = ()  # a kernel without swap
        now = frozenset((each.path, each.size_bytes) for each in areas)
        before, self._swaps = self._swaps, now
        if before is None or before == now:
            return
        went = [f"swap area {path} went" for path, _ in sorted(before - now)]
        came = [f"swap area {path} came" for path, _ in sorted(now - before)]
        self._devices_changed(went + came)

    def _devices_changed(self, changes: list[str]) -> None:
        if not changes:
            return
        words = ", ".join(changes[:_MOST_NAMED])
        if len(changes) > _MOST_NAMED:
            words += f" and {len(changes) - _MOST_NAMED} more"
        self._emit(DevicesChanged(words))

    def _emit(self, signal: PowerSupply | DevicesChanged) -> None:
        if self._running is not None:
            self._running.emit(signal)
