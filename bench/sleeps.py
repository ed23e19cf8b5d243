# SPDX-License-Identifier: LGPL-2.1-or-later
"""One hibernation in the middle of a reclaim, as a sample; what the guest's journal says of it, and
what is made of many. `bench/asleep.py` measures them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Any

from rich.table import Table

from bench import desktop
from bench.desktop import Line

EVERY = 5  # so many in the middle of a reclaim to each with none

# systemd's src/login/logind-dbus.c, manager_inhibit_timeout_handler()
_TOO_LONG = "inhibitor timeout is reached"
_HEARD = ("stop: the machine goes to sleep", "release: ", "sleeping: ")
_ENDED = "run ended, "
_STOPPED = f"{_ENDED}interrupted: the machine goes to sleep"
_RELEASED = "release: "


class Kind(StrEnum):
    """What the daemon is at when the sleep is asked for."""

    RECLAIMING = "reclaiming"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Cycle:
    """One hibernation and resume. `outcome` is "slept", or why not. `off_seconds` is from the
    request to the end of the machine, from outside; `held_seconds` from the daemon's hearing of it
    to its letting go, `released_seconds` from the request to the same, by the guest's clock.
    `stopped` is whether a run was stopped for it, `timed_out` whether logind waited in vain,
    `too_late` see `Told`, `lock_again` whether the next sleep would be held back, `intact` of the
    cold memory."""

    number: int
    kind: Kind
    accelerator: str
    outcome: str
    off_seconds: float | None = None
    released_seconds: float | None = None
    held_seconds: float | None = None
    resume_seconds: float | None = None
    image_bytes: int | None = None
    stopped: bool = False
    timed_out: bool = False
    too_late: bool = False
    lock_again: bool = False
    intact: bool = False

    @property
    def well(self) -> bool:
        """Whether nothing came in its way, and nothing was lost."""
        free = self.outcome == "slept" and not self.timed_out
        fell = self.stopped is (self.kind is Kind.RECLAIMING)
        return free and fell and self.lock_again and self.intact


# --- what is kept, and what is still to be done ---------------------------------------------------


def make(**fields: Any) -> Cycle:  # noqa: ANN401 - as they were kept
    """A cycle from its line."""
    return Cycle(**{**fields, "kind": Kind(fields["kind"])})


def still_to_do(sleeps: int, found: Iterable[Cycle]) -> list[tuple[int, Kind]]:
    """Of so many in the middle of a reclaim, and of those with none between them."""
    done = {(one.number, one.kind) for one in found}
    order = []
    for number in range(sleeps):
        if number % EVERY == 0:
            order.append((number // EVERY, Kind.NOTHING))
        order.append((number, Kind.RECLAIMING))
    return [each for each in order if each not in done]


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What the journal says of one sleep, in seconds of the guest's clock. `too_late`: the run had
    ended by itself when the daemon heard of it, so that nothing can be told by this one."""

    held_seconds: float | None
    released_seconds: float | None
    stopped: bool
    timed_out: bool
    too_late: bool


def told(lines: Sequence[Line], asked_at: float) -> Told:
    """Read the lines of the daemon and of logind; what they do not say is None."""
    heard = desktop.first(lines, *_HEARD, since=asked_at)
    released = desktop.first(lines, _RELEASED, since=asked_at)
    ended = desktop.first(lines, _ENDED, since=asked_at)
    held = None
    if heard is not None and released is not None:
        held = released.at_seconds - heard.at_seconds
    return Told(
        held_seconds=held,
        released_seconds=None if released is None else released.at_seconds - asked_at,
        stopped=ended is not None and ended.text.startswith(_STOPPED),
        timed_out=any(_TOO_LONG in line.text for line in lines if line.at_seconds >= asked_at),
        too_late=ended is not None
        and not ended.text.startswith(_STOPPED)
        and (heard is None or ended.at_seconds <= heard.at_seconds),
    )


def spread(values: Iterable[float | None]) -> dict[str, float]:
    """Median, least and most of those that are known; empty when there are none."""
    known = [value for value in values if value is not None]
    return {"median": median(known), "min": min(known), "max": max(known)} if known else {}


def summary(found: Sequence[Cycle], kernel: str) -> dict[str, Any]:
    """How many went well, and what they took, with a reclaim under way and without."""
    grouped = {kind: [one for one in found if one.kind is kind] for kind in Kind}
    return {
        "kernel": kernel,
        "accelerator": " and ".join(sorted({one.accelerator for one in found})),
        "results": {
            str(kind): {
                "sleeps": len(group),
                "well": sum(one.well for one in group),
                "held_seconds": spread(one.held_seconds for one in group),
                "released_seconds": spread(one.released_seconds for one in group),
                "off_seconds": spread(one.off_seconds for one in group),
                "resume_seconds": spread(one.resume_seconds for one in group),
            }
            for kind, group in grouped.items()
            if group
        },
        "sleeps": [asdict(one) for one in found],
    }


_SHOWN = (
    ("the daemon holds it back", "held_seconds"),
    ("request to the daemon's letting go", "released_seconds"),
    ("request to power-off", "off_seconds"),
    ("power-on to the first answer", "resume_seconds"),
)


def table(result: dict[str, Any]) -> Table:
    """For a person, in seconds."""
    drawn = Table(title=f"Hibernations on {result['kernel']} under {result['accelerator']}, in s")
    drawn.add_column("under way")
    for name in ("", "median", "min", "max"):
        drawn.add_column(name, justify="right" if name else "left")
    for kind, row in result["results"].items():
        name = f"{kind}: {row['well']} of {row['sleeps']} well"
        for words, key in _SHOWN:
            cells = (f"{row[key][each]:.2f}" for each in ("median", "min", "max"))
            drawn.add_row(name, words, *(cells if row[key] else ()))
            name = ""
    for one in result["sleeps"]:
        if not make(**one).well:
            drawn.add_row(f"NOT WELL: {one['kind']} {one['number'] + 1}", one["outcome"])
    return drawn
