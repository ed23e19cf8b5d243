# SPDX-License-Identifier: LGPL-2.1-or-later
"""Emptying a host: all its guests to another, so many at a time. One that fails stops no other."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass

from hibprep.errors import ExitCode, HibprepError
from hibprep.guests.means import Means
from hibprep.guests.migrate import MigrateWish, migrate
from hibprep.guests.move_report import ManyReport, MoveFailure, MoveReport
from hibprep.guests.progress import MoveProgress, Tell
from hibprep.guests.sides import Connect, Side

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2  # between two looks at whether all have ended
Outcome = MoveReport | MoveFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """From where to where, and how one connects. Every worker has connections of its own: one that
    hangs holds up one guest, not all of them."""

    source: str
    destination: str
    connect: Connect


def migrate_all(
    route: Route, wish: MigrateWish, means: Means, tell: Tell, *, parallel: int
) -> ManyReport:
    """Migrate every guest that is active on the source, `parallel` of them at a time.

    The stop flag ends those that are under way, and no further one is begun; they are told of as
    interrupted. Raises what keeps the guests from being listed.
    """
    began = means.clock.monotonic()
    listing = Side(route.source, route.connect)
    try:
        names = [
            (domain.uuid, domain.name)
            for domain in listing.ask(lambda host: host.domains(active=True))
        ]
    finally:
        listing.close()
    outcomes = _Pool(route, wish, means, tell).run(names, parallel)
    order = [name for _, name in names]
    outcomes.sort(key=lambda outcome: order.index(outcome.name))
    return ManyReport(
        source=route.source,
        destination=route.destination,
        seconds=means.clock.monotonic() - began,
        reports=tuple(each for each in outcomes if isinstance(each, MoveReport)),
        failures=tuple(each for each in outcomes if isinstance(each, MoveFailure)),
    )


class _Pool:
    """The workers, and what they share."""

    def __init__(self, route: Route, wish: MigrateWish, means: Means, tell: Tell) -> None:
        self._route, self._wish, self._means = route, wish, means
        self._shown = tell
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, str]] = deque()
        self._outcomes: list[Outcome] = []

    def run(self, names: list[tuple[str, str]], parallel: int) -> list[Outcome]:
        """All of them; returns when the last has ended."""
        self._waiting.extend(names)
        threads = [
            threading.Thread(target=self._work, name=f"migrating {number}", daemon=True)
            for number in range(min(parallel, len(names)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                # a signal is heard only between two waits
                thread.join(_LOOK_SECONDS)
        return self._outcomes

    def _work(self) -> None:
        source = Side(self._route.source, self._route.connect)
        destination = Side(self._route.destination, self._route.connect)
        try:
            while (guest := self._next()) is not None:
                outcome = self._one(*guest, source, destination)
                with self._lock:
                    self._outcomes.append(outcome)
        finally:
            source.close()
            destination.close()

    def _next(self) -> tuple[str, str] | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _one(self, uuid: str, name: str, source: Side, destination: Side) -> Outcome:
        if self._means.stop.requested():
            return MoveFailure(
                name=name, reason=self._means.stop.reason, exit_code=ExitCode.INTERRUPTED
            )
        try:
            return migrate(
                uuid, source, destination, self._wish, means=self._means, tell=self._tell
            )
        except HibprepError as error:
            return MoveFailure(name=name, reason=str(error), exit_code=error.exit_code)
        except Exception as error:
            # a defect of ours with one guest is no reason to leave the others where they are
            log.exception("migrating %s failed", name)
            return MoveFailure(
                name=name, reason=f"{type(error).__name__}: {error}", exit_code=ExitCode.FAILED
            )

    def _tell(self, progress: MoveProgress) -> None:
        with self._lock:
            self._shown(progress)
