# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of a guest as QEMU and the guest's kernel have it, page counts as bytes.

Every byte that the balloon leaves to the guest is in use, page cache, or free; and free memory has
been touched, so that it holds something and is sent, or reads as zeros. What moves by itself (the
balloon, free page reporting, the statistics) moves as time goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.fakes.clock import HandClock

MIB = 1 << 20
PAGE = 4096
STEP_SECONDS = 0.05
REPORTING_DELAY_SECONDS = 2.0


@dataclass
class GuestMemory:
    """One guest. What is given adds up to what the balloon leaves to it."""

    clock: HandClock
    maximum: int = 1024 * MIB
    used: int = 200 * MIB
    cache: int = 400 * MIB
    touched: int = 100 * MIB  # free, and not zero
    own: int = 48 * MIB  # QEMU's
    period: int = 0
    reporting: bool = False
    fragments: float = 0.05  # of what is free and touched, not in whole blocks
    balloon_rate: int = 400 * MIB  # a second
    grain: int = 4096
    driver: bool = True  # virtio_balloon in the guest
    runs: bool = True
    killed: int = 0  # programs, for want of memory
    growth: int = 0  # bytes a second that programs in it allocate

    def __post_init__(self) -> None:
        self.actual = self.maximum
        self.target = self.maximum
        self.compacted = False
        self.told: dict[str, int] | None = None
        self.told_at = 0
        self._now = self.clock.seconds
        self._next_telling = 0.0
        self._freed_at = self._now
        assert self.used + self.cache + self.touched <= self.actual

    @property
    def untouched(self) -> int:
        return self.actual - self.used - self.cache - self.touched

    @property
    def free(self) -> int:
        return self.actual - self.used - self.cache

    @property
    def rss(self) -> int:
        return self.own + self.used + self.cache + self.touched

    @property
    def sent(self) -> int:
        """What a migration or a save would send now."""
        payload = self.used + self.cache + self.touched
        return payload + 8 * (payload // PAGE) + 9 * ((self.maximum - payload) // PAGE)

    def drop_caches(self) -> None:
        self.touched += self.cache
        self.cache = 0
        self._freed_at = self.clock.seconds

    def allocate(self, amount: int) -> None:
        """A program takes memory: what is free, then what the kernel drops for it."""
        have = self.free + self.cache
        if amount > have:
            self.killed += 1
            return
        from_cache = max(0, amount - self.free)
        self.cache -= from_cache
        from_free = amount - from_cache
        self.used += amount
        self.touched -= min(self.touched, from_free)

    def set_period(self, seconds: int) -> None:
        if seconds == self.period:
            return
        # at once when the asking is switched on, else after a period
        self._next_telling = self._now + (seconds if self.period else 0.1)
        self.period = seconds

    def reboot(self) -> None:
        """The device is reset, and the driver that comes up goes to QEMU's target again."""
        self.actual = self.maximum
        self.used, self.cache, self.touched = 100 * MIB, 50 * MIB, 0
        self.told, self.told_at = None, 0

    def catch_up(self) -> None:
        """Everything that has happened since this was called last."""
        while self.clock.seconds - self._now >= STEP_SECONDS:
            self._now += STEP_SECONDS
            if self.runs:
                self._step()

    def _step(self) -> None:
        if self.growth:
            self.allocate(int(self.growth * STEP_SECONDS))
        if self.driver:
            self._move_balloon(int(self.balloon_rate * STEP_SECONDS))
            if self.reporting and self._now - self._freed_at >= REPORTING_DELAY_SECONDS:
                share = self.fragments / 4 if self.compacted else self.fragments
                self.touched = min(self.touched, int(share * self.free) // PAGE * PAGE)
            if self.period and self._now >= self._next_telling:
                self._next_telling = self._now + self.period
                self._tell()

    def _move_balloon(self, amount: int) -> None:
        target = -(-self.target // self.grain) * self.grain
        if target < self.actual:
            amount = min(amount, self.actual - target, max(0, self.free + self.cache - 4 * MIB))
            from_free = min(amount, self.free)
            if self.free:
                # free pages as they come, touched or not
                self.touched -= from_free * self.touched // self.free
            self.cache -= amount - from_free
            self.actual -= amount
        else:
            self.actual += min(amount, target - self.actual)  # reads as zeros

    def _tell(self) -> None:
        self.told_at = int(self.clock.wall.timestamp() - (self.clock.seconds - self._now))
        self.told = {
            "available": self.actual - 20 * MIB,
            "unused": self.free,
            "usable": self.free + self.cache,
            "disk_caches": self.cache,
        }
