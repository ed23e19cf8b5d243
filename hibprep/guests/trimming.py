# SPDX-License-Identifier: LGPL-2.1-or-later
"""Having a guest free memory from inside, and nothing else: also when its migration has begun.

libvirt has begun the job then, and until it has ended nothing of the guest may be changed: no
balloon, no metadata. So no record is written and there is nothing to undo. What the guest frees is
given back to the host by free page reporting, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.guests.errors import NotRunningError
from hibprep.guests.ladder import Rung, climb
from hibprep.guests.means import Means
from hibprep.guests.port import Domain
from hibprep.guests.reporting import Reported, wait_reported
from hibprep.model import Ending
from hibprep.page import Block, Page, seconds, size

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimReport:
    """One guest that was trimmed; `reported` is None where it did not come to that."""

    version: int = VERSION
    name: str
    uuid: str
    seconds: float
    ending: Ending
    reason: str
    rungs: tuple[Rung, ...] = ()
    reported: Reported | None = None


def trim_guest(domain: Domain, means: Means, *, timeout_seconds: float) -> TrimReport:
    """Trim a guest that runs, within that time. NotRunningError, and what libvirt refuses."""
    info = domain.info()
    if not info.running:
        raise NotRunningError(
            f"{info.name} is {info.state}", "only a guest that runs can give memory up; start it"
        )
    began = means.clock.monotonic()

    def report(
        ending: Ending, reason: str, rungs: tuple[Rung, ...] = (), reported: Reported | None = None
    ) -> TrimReport:
        passed = means.clock.monotonic() - began
        return TrimReport(
            name=info.name, uuid=info.uuid, seconds=passed, ending=ending, reason=reason,
            rungs=rungs, reported=reported,
        )  # fmt: skip

    if why_not := info.hardware.why_no_reporting:
        return report(
            Ending.UNAVAILABLE, f"what the guest frees would be sent all the same: {why_not}"
        )
    rungs = climb(
        domain, info.hardware, clock=means.clock, stop=means.stop, seconds=timeout_seconds / 2
    )
    if means.stop.requested():
        return report(Ending.INTERRUPTED, means.stop.reason, rungs)
    if not any(rung.used for rung in rungs):
        return report(Ending.UNAVAILABLE, "there is no way into the guest", rungs)
    left = timeout_seconds - (means.clock.monotonic() - began)
    reported = wait_reported(domain, clock=means.clock, stop=means.stop, seconds=max(0.0, left))
    if means.stop.requested():
        return report(Ending.INTERRUPTED, means.stop.reason, rungs, reported)
    if not reported.settled:
        return report(Ending.DEADLINE, "the guest was still giving memory back", rungs, reported)
    return report(Ending.DONE, "the guest gave back what it had freed", rungs, reported)


def trimmed_page(report: TrimReport) -> Page:
    """For a person."""
    given = report.reported.given_back_bytes if report.reported is not None else 0
    return Page(
        f"trim {report.name}: {size(given)} given back; {seconds(report.seconds)}; "
        f"{report.ending}: {report.reason}",
        (
            Block(
                "How",
                tuple(
                    (str(rung.name), "yes" if rung.used else "no", rung.reason)
                    for rung in report.rungs
                ),
                ("by", "", "why"),
            ),
        ),
    )
