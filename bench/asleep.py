# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench abort --sleeps N``: a hibernation that is asked for in the middle of a reclaim.

In a guest with its own logind and the daemon run by its unit: cold memory, a session whose idle
hint is set, and at a random moment of the reclaim that follows ``systemctl hibernate``. Each has to
switch the machine off and to come back with every byte in its place; what the daemon cost is the
time from its hearing of the sleep to its letting go of the delay lock, by the guest's journal. Some
hibernations of the same guest with nothing under way are put between them.

The time to power-off is measured from outside. It is no measure of the delay: a reclaim that was
half done leaves a smaller image. What was measured is kept and not measured again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import desktop, kept, options
from bench.abort import seeded
from bench.lab import (
    Guest,
    GuestTimeout,
    HibernateTiming,
    HibernationFailed,
    HibernationRefused,
    Image,
    LabError,
    ResumeFailed,
    Workload,
    build,
    build_wheel,
)
from bench.returning import ASKS, TOO_LATE
from bench.sleeps import Cycle, Kind, make, still_to_do, summary, table, told

MIB = 1 << 20
GIB = 1 << 30
RECIPE = "trixie"
MEMORY_BYTES = GIB
COLD_BYTES = 448 * MIB
LONGEST_SECONDS = 6.0  # into the reclaim
_EARLIER = 0.8
_TRIES = 8
_SLEEP_SECONDS = 300.0
_MEASURING = tuple(
    Path(__file__).parent / name
    for name in ("asleep.py", "returning.py", "watching.py", "lab/workload.py")
)


def asked_at(timing: HibernateTiming) -> float:
    """The guest's moment of the request; LabError when it was not said."""
    for _, line in timing.said:
        found = re.fullmatch(rf"{ASKS} ([0-9.]+)", line)
        if found:
            return float(found[1])
    raise LabError(f"the moment of the request was not said, only {timing.said}")


class Sleeper:
    """A guest that is put to sleep again and again."""

    def __init__(self, guest: Guest, seed: int) -> None:
        self._guest = guest
        self._chance = seeded(seed)
        self._longest = LONGEST_SECONDS
        self._cold = Workload(guest, cold_bytes=COLD_BYTES)
        self._session: desktop.Desktop | None = None

    def make_ready(self) -> None:
        """What the guest needs once."""
        self._guest.install(build_wheel())
        self._session = desktop.open_session(self._guest)
        desktop.start_daemon(self._guest, desktop.AT_ONCE)
        desktop.put_program(self._guest)
        self._cold.start()

    def cycle(self, number: int, kind: Kind) -> Cycle:
        """One of them. All memory is where it was before, and nobody has left, on return."""
        start = Cycle(number, kind, self._guest.accelerator, "")
        try:
            timing = self._hibernate(kind)
            resumed = self._guest.resume()
        except (HibernationRefused, HibernationFailed, ResumeFailed, GuestTimeout) as error:
            return _with(start, outcome=f"{type(error).__name__}: {error}")
        self._desk().hint(idle=False)
        request = asked_at(timing)
        said = told(
            desktop.journal(self._guest, desktop.UNIT, desktop.LOGIND_UNIT, since=request), request
        )
        return _with(
            start,
            outcome="slept",
            off_seconds=timing.seconds - timing.seconds_at(ASKS),
            resume_seconds=resumed,
            image_bytes=self._guest.hibernation_facts().wrote_bytes,
            lock_again=desktop.holds_sleep_back(self._guest),
            intact=bool(self._cold.verify()["ok"]),
            **asdict(said),
        )

    def _hibernate(self, kind: Kind) -> HibernateTiming:
        command = [*desktop.RETURNING, "sleep"]
        for _ in range(_TRIES):
            words: list[str] = []
            if kind is Kind.RECLAIMING:
                delay = self._chance.uniform(0.0, self._longest)
                words = [f"--session={self._desk().path}", f"--delay={delay:.3f}"]
            try:
                return self._guest.hibernate(
                    [*command, *words, "--", "systemctl", "hibernate"], timeout=_SLEEP_SECONDS
                )
            except HibernationRefused as refused:
                if refused.result.returncode != TOO_LATE:
                    raise
            self._longest *= _EARLIER
            self._desk().hint(idle=False)
            self._cold.verify()  # which brings all of it back
        raise LabError(f"{_TRIES} runs ended by themselves before a sleep fell into one")

    def _desk(self) -> desktop.Desktop:
        if self._session is None:
            raise LabError("the guest is not ready")
        return self._session


def _with(cycle: Cycle, **fields: Any) -> Cycle:  # noqa: ANN401 - of its fields
    return make(**{**asdict(cycle), **fields})


def measure(
    image: Image,
    left: Sequence[tuple[int, Kind]],
    seed: int,
    tell: Callable[[str], None],
    done: Callable[[Cycle], None],
) -> None:
    """Measure what is left, in a new guest after each that was lost."""
    rest, late = list(left), 0
    while rest:
        with Guest(image, memory_bytes=MEMORY_BYTES, progress=tell) as guest:
            guest.start()
            tell("installing hibprep in the guest")
            sleeper = Sleeper(guest, seed * 1000 + rest[0][0])
            sleeper.make_ready()
            while rest:
                tell(f"{len(left) - len(rest) + 1} of {len(left)}: {rest[0][1]}")
                found = sleeper.cycle(*rest[0])
                if found.too_late:
                    late += 1
                    if late > _TRIES:
                        raise LabError(
                            f"{late} runs ended just before the sleep that was asked for"
                        )
                    continue
                del rest[0]
                done(found)
                if found.outcome != "slept":
                    break


def run(sleeps: int, *, seed: int, again: bool, as_json: bool) -> None:
    """Measure what is still to be measured, and print the figures. Raises LabError."""
    console = Console(stderr=True)
    with console.status("looking for the image") as status:
        image = build(RECIPE, status.update)
        path = kept.samples_file(
            "asleep", f"{image.kernel_release}-{seed}", _MEASURING, again=again
        )
        found = kept.load(path, make)

        def done(one: Cycle) -> None:
            found.append(one)
            kept.keep(path, one)
            if not console.is_terminal:
                print(_line(one), file=sys.stderr, flush=True)

        left = still_to_do(sleeps, found)
        if left:
            measure(image, left, seed, status.update, done)
    found = [one for one in found if (one.number, one.kind) in set(still_to_do(sleeps, ()))]
    result = summary(found, image.kernel_release)
    if as_json:
        print(json.dumps(result))
    else:
        options.output().print(table(result))


def _line(one: Cycle) -> str:
    if one.off_seconds is None:
        return f"{one.kind} {one.number + 1}: {one.outcome}"
    held = "?" if one.held_seconds is None else f"{one.held_seconds * 1000:.0f} ms"
    how = "well" if one.well else f"NOT WELL: {one}"
    return f"{one.kind} {one.number + 1}: held {held}, off in {one.off_seconds:.1f} s, {how}"
