# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest being prepared, between the record that was written and the report.

First the guest frees what it can, then that is given back to the host: reported by the guest's
kernel by itself, or taken by the balloon, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hibprep.guests import record as records
from hibprep.guests.balloon import (
    DEFAULT_RESERVE,
    Moved,
    Reserve,
    deflate,
    inflate,
    missing_bytes,
    target_bytes,
    used_bytes,
)
from hibprep.guests.estimate import DEFAULT_BYTES_PER_SECOND, Discard, Estimate, as_it_is, prepared
from hibprep.guests.ladder import Rung, RungName, climb
from hibprep.guests.means import Means
from hibprep.guests.port import Domain, DomainInfo, MemoryStats
from hibprep.guests.record import Record
from hibprep.guests.report import VERSION, GuestProgress, GuestReport
from hibprep.guests.reporting import Reported, wait_reported
from hibprep.guests.statistics import FRESH_SECONDS, OUR_PERIOD_SECONDS, fresh
from hibprep.guests.undo import UNDO_SECONDS, write_record
from hibprep.guests.worth import Worth, least_pace
from hibprep.model import Ending

Tell = Callable[[GuestProgress], None]

_LEAST_GAIN_BYTES = 16 << 20  # less is not worth a guest with less memory
# beside free page reporting, the balloon is worth its undo only where it gains this much
_BALLOON_TOO_SHARE = 0.10
_CORRECTIONS = 3
_SILENT_SECONDS = 2.0  # for a guest that has told nothing in all the time that it was given before
# The guest's kernel reports no more than a sixteenth of its free memory every 2 s
# (page_reporting_cycle() in mm/page_reporting.c): of much memory the balloon takes the rest sooner
_REPORTING_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to prepare. `timeout_seconds` is for all of it, `guest_seconds` for what is done inside
    the guest; with `while_it_pays` it takes no longer than what it can spare the sending."""

    reserve: Reserve = DEFAULT_RESERVE
    timeout_seconds: float = 60.0
    guest_seconds: float = 30.0
    bytes_per_second: float = DEFAULT_BYTES_PER_SECOND
    while_it_pays: bool = False


class Preparation:
    """One run, after the record was written."""

    def __init__(
        self,
        domain: Domain,
        info: DomainInfo,
        record: Record,
        *,
        options: Options,
        means: Means,
        tell: Tell,
    ) -> None:
        self._domain, self._info, self._record = domain, info, record
        self._options, self._means, self._tell = options, means, tell
        self._hardware = info.hardware
        self._began = means.clock.monotonic()
        self._started = means.clock.now()
        self._notes: list[str] = []
        self._rungs: tuple[Rung, ...] = ()
        self._reported: Reported | None = None
        self._moved: Moved | None = None
        self._silent = False  # it told no statistics when it was asked last
        self._last: MemoryStats | None = None  # when all was done
        self._worth = Worth()

    def run(self) -> GuestReport:
        """All of it."""
        told = self._statistics()
        before = told or self._domain.memory_stats()
        content_before = self._domain.content_bytes()
        if self._options.while_it_pays:
            self._worth = Worth(
                spared_seconds=self._spared_seconds(before, content_before),
                used_seconds=used_bytes(before) / self._options.bytes_per_second,
                began_seconds=self._began,
            )
        ending, reason = self._work(told)
        after = before
        if ending is not Ending.INTERRUPTED:
            if self._rungs and ending is not Ending.UNAVAILABLE:  # else nothing has changed
                after = self._last or self._fresh() or self._domain.memory_stats()
            self._settle_down()
        return self._report(
            self._as_it_is(before, content_before),
            self._as_it_is(after, self._domain.content_bytes()),
            after.actual_bytes,
            ending=ending,
            reason=reason,
        )

    def _work(self, told: MemoryStats | None) -> tuple[Ending, str]:
        hardware = self._hardware
        if hardware.why_no_balloon:  # and then no reporting either: it is the balloon's device
            return Ending.UNAVAILABLE, (
                "nothing that the guest frees would get out of what is sent: "
                + hardware.why_no_balloon
            )
        if self._worth.why_not:
            return Ending.DONE, self._worth.why_not
        if seconds := self._guest_seconds():
            self._say("in the guest")
            self._rungs = climb(
                self._domain,
                hardware,
                clock=self._means.clock,
                stop=self._means.stop,
                seconds=seconds,
            )
        if self._stopped():
            return Ending.INTERRUPTED, self._means.stop.reason
        if self._trimmed and not hardware.why_no_reporting:
            return self._by_reporting()
        # told a moment ago, and nothing was done since: to be told the same again takes a second
        return self._by_balloon(None if self._rungs else told)

    def _guest_seconds(self) -> float:
        """How long the guest may be at it; 0: it is not asked."""
        seconds = min(self._options.guest_seconds, self._left())
        worth = self._worth.guest_seconds(self._means.clock.monotonic())
        if worth < seconds:
            given = f"was given {worth:.0f} s" if worth else "was not asked what is cold"
            self._notes.append(
                f"the guest {given}: the sending can be {self._worth.spared_seconds:.0f} s shorter "
                f"by what is free or cache, and takes {self._worth.used_seconds:.0f} s for the rest"
            )
        return min(seconds, worth)

    def _spared_seconds(self, before: MemoryStats, content: int | None) -> float | None:
        """How much sooner it is sent when it is prepared, by its own statistics."""
        ways = (
            self._prepared(before, discard, content, trimmed=True)
            for discard, why_not in (
                (Discard.REPORTING, self._hardware.why_no_reporting),
                (Discard.BALLOON, self._hardware.why_no_balloon),
            )
            if not why_not
        )
        least = min((way.seconds for way in ways if way is not None), default=None)
        if least is None:
            return None  # it tells nothing: nobody knows what it would gain
        return max(0.0, self._as_it_is(before, content).seconds - least)

    # free page reporting

    def _by_reporting(self) -> tuple[Ending, str]:
        self._say("free page reporting")
        worth = self._worth.reporting_seconds(self._means.clock.monotonic())
        self._reported = wait_reported(
            self._domain,
            clock=self._means.clock,
            stop=self._means.stop,
            seconds=min(_REPORTING_SECONDS, worth, self._left()),
        )
        if self._stopped():
            return Ending.INTERRUPTED, self._means.stop.reason
        stats = self._fresh()
        if stats is not None and self._balloon_gains_more(stats):
            self._notes.append(
                "free page reporting left much of what was freed in place (memory in fragments, or "
                "much of it): the balloon was inflated as well"
            )
            return self._inflate(stats)
        self._last = stats
        if not self._reported.settled:
            return Ending.DEADLINE, "the guest was still giving memory back"
        return Ending.DONE, "free page reporting gave back what the guest had freed"

    def _balloon_gains_more(self, stats: MemoryStats) -> bool:
        """Of what is free the balloon takes all but the reserve, blocks that are too small to be
        reported too; what these still hold would be sent."""
        if not stats.unused_bytes:
            return False
        sent = self._as_it_is(stats, self._domain.content_bytes()).sent_bytes
        stale = sent - (stats.actual_bytes - stats.unused_bytes)
        taken = stats.actual_bytes - target_bytes(stats, self._options.reserve)
        gain = stale * min(1.0, taken / stats.unused_bytes)
        return gain > max(_LEAST_GAIN_BYTES, _BALLOON_TOO_SHARE * sent)

    # the balloon

    def _by_balloon(self, told: MemoryStats | None) -> tuple[Ending, str]:
        stats = told or self._fresh()
        if self._stopped():
            return Ending.INTERRUPTED, self._means.stop.reason
        if stats is None:
            return Ending.UNAVAILABLE, (
                "the guest tells no statistics of its memory, so nobody knows how far its balloon "
                "may go; is the virtio_balloon driver loaded there?"
            )
        if not self._trimmed:
            self._rungs += (
                Rung(
                    name=RungName.BALLOON,
                    used=True,
                    reason="the guest's kernel drops its cache for the balloon",
                ),
            )
        return self._inflate(stats)

    def _inflate(self, stats: MemoryStats) -> tuple[Ending, str]:
        target = target_bytes(stats, self._options.reserve)
        reserve = self._options.reserve.of(used_bytes(stats))
        if stats.actual_bytes - target < _LEAST_GAIN_BYTES:
            return Ending.DONE, "it has little more than it uses and its reserve"
        self._say("balloon", 0, stats.actual_bytes - target)
        self._record = replace(self._record, set_bytes=target, reserve_bytes=reserve)
        write_record(self._domain, self._record)
        self._moved = inflate(
            self._domain,
            target,
            reserve,
            clock=self._means.clock,
            stop=self._means.stop,
            seconds=self._left(),
            least_bytes_per_second=self._least_pace(stats, target),
        )
        if self._stopped():
            return Ending.INTERRUPTED, self._means.stop.reason
        self._keep_reserve(reserve)
        if not self._moved.why_short:
            return Ending.DONE, "the balloon is where it was asked to be"
        if self._left() <= 0:
            return Ending.DEADLINE, self._moved.why_short
        return Ending.EXHAUSTED, self._moved.why_short

    def _least_pace(self, stats: MemoryStats, target: int) -> float:
        """How fast the balloon must go to pay, in bytes a second."""
        if self._worth.spared_seconds is None:
            return 0.0
        content = self._domain.content_bytes()
        after = self._prepared(stats, Discard.BALLOON, content, trimmed=self._trimmed)
        now = self._as_it_is(stats, content).seconds
        spared = 0.0 if after is None else now - after.seconds
        return least_pace(stats.actual_bytes - target, spared)

    def _keep_reserve(self, reserve: int) -> None:
        """Give back what the guest has come to need meanwhile, as its own statistics have it."""
        for _ in range(_CORRECTIONS):
            stats = self._fresh()
            missing = 0 if stats is None else missing_bytes(stats, reserve)
            if stats is None or not missing:
                self._last = stats
                return
            self._notes.append("the guest needed more meanwhile: some was given back")
            self._moved = deflate(
                self._domain,
                min(stats.actual_bytes + missing, self._record.original_bytes),
                clock=self._means.clock,
                stop=self._means.calm,
                seconds=UNDO_SECONDS,
            )

    # what they share

    @property
    def _trimmed(self) -> bool:
        return any(rung.used and rung.name is not RungName.BALLOON for rung in self._rungs)

    def _statistics(self) -> MemoryStats | None:
        """Fresh ones, with the guest told to tell them often."""
        return self._fresh() if self._hardware.balloon else None

    def _fresh(self) -> MemoryStats | None:
        # all of it at the end of the time too: nothing is computed from what is old
        seconds = _SILENT_SECONDS if self._silent else FRESH_SECONDS
        clock, stop = self._means.clock, self._means.stop
        stats = fresh(self._domain, clock=clock, stop=stop, seconds=seconds, at_once=True)
        self._silent = stats is None
        return stats

    def _settle_down(self) -> None:
        """Put the period back; and the record away, where nothing else was changed."""
        if self._hardware.balloon and self._record.stats_period_seconds != OUR_PERIOD_SECONDS:
            self._domain.set_stats_period(self._record.stats_period_seconds)
        if not self._record.set_bytes:
            self._domain.remove_metadata(records.NAMESPACE)

    def _as_it_is(self, stats: MemoryStats, content: int | None) -> Estimate:
        return as_it_is(
            stats,
            self._hardware,
            self._info.maximum_bytes,
            self._options.bytes_per_second,
            content_bytes=content,
        )

    def _prepared(
        self, stats: MemoryStats, discard: Discard, content: int | None, *, trimmed: bool
    ) -> Estimate | None:
        return prepared(
            stats,
            self._hardware,
            self._info.maximum_bytes,
            discard=discard,
            trimmed=trimmed,
            reserve=self._options.reserve,
            bytes_per_second=self._options.bytes_per_second,
            content_bytes=content,
        )

    def _left(self) -> float:
        passed = self._means.clock.monotonic() - self._began
        return max(0.0, self._options.timeout_seconds - passed)

    def _stopped(self) -> bool:
        return self._means.stop.requested()

    def _say(self, step: str, done: int = 0, amount: int = 0) -> None:
        self._tell(GuestProgress(self._info.name, step, done, amount))

    def _report(
        self, before: Estimate, after: Estimate, actual_bytes: int, *, ending: Ending, reason: str
    ) -> GuestReport:
        discards = []
        if self._reported is not None:
            discards.append(Discard.REPORTING)
        if self._moved is not None:
            discards.append(Discard.BALLOON)
        return GuestReport(
            version=VERSION,
            name=self._info.name,
            uuid=self._info.uuid,
            started=self._started.isoformat(timespec="seconds"),
            seconds=self._means.clock.monotonic() - self._began,
            ending=ending,
            reason=reason,
            rungs=self._rungs,
            discards=tuple(discards),
            reported=self._reported,
            original_bytes=self._record.original_bytes,
            target_bytes=self._record.set_bytes,
            actual_bytes=actual_bytes,
            reserve_bytes=self._record.reserve_bytes if self._moved else 0,
            before=before,
            after=after,
            record_kept=bool(self._record.set_bytes),
            notes=tuple(dict.fromkeys(self._notes)),
        )
