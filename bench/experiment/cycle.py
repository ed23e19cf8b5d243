# SPDX-License-Identifier: LGPL-2.1-or-later
"""One cycle: a guest is booted, filled, left alone, prepared, hibernated and resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.experiment import daemon, hook, preparations
from bench.experiment.calibrate import CONFIG_FILE, configuration, image_pages
from bench.experiment.loads import HAS_WORKING_SET, Loads, fill_of, root_bytes
from bench.experiment.parameters import DEFAULT_IMAGE_SIZE, Parameters, SwapKind
from bench.experiment.results import Calibration
from bench.experiment.sample import ASKED, EMPTIED, OF_HIBPREP, Condition, Sample
from bench.lab import Guest, LabError

if TYPE_CHECKING:
    from bench.experiment.schedule import Cell
    from bench.lab import ConsoleFacts, Image

HIBERNATE_SECONDS = 1200.0
RESUME_SECONDS = 600.0
TOUCH_SECONDS = 600.0
VERIFY_SECONDS = 1200.0
_EMPTY_RATIO = 0.1  # of the working set: no more may have been in memory

_IMAGE_SIZE = "/sys/power/image_size"
_COMPRESSOR = "/sys/module/hibernate/parameters/compressor"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cycles of a results file have in common."""

    parameters: Parameters
    image: Image
    wheel: Path
    code: str
    calibration: Calibration | None = None


def new_guest(bench: Bench, files_bytes: int | None, tell: Tell) -> Guest:
    """A guest as the parameters have it."""
    wanted = bench.parameters
    return Guest(
        bench.image,
        memory_bytes=wanted.memory_bytes,
        cpus=wanted.cpus,
        swap_bytes=wanted.swap_bytes,
        disk_bytes_per_second=wanted.disk_bytes_per_second,
        disk_requests_per_second=wanted.disk_requests_per_second,
        swap_file=wanted.swap is SwapKind.FILE,
        root_bytes=files_bytes,
        progress=tell,
    )


def measure(bench: Bench, cell: Cell, budget_seconds: float | None, tell: Tell) -> Sample:
    """Run one cycle to its sample; one that fails is a sample too."""
    blank = Sample(
        condition=cell.condition,
        workload=cell.workload,
        arrangement=cell.arrangement,
        warm_ratio=cell.warm_ratio,
        image_size=cell.image_size,
        run=cell.run,
        kernel=bench.image.kernel_release,
        code=bench.code if cell.condition in OF_HIBPREP else "",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        budget_seconds=budget_seconds,
    )
    fill = fill_of(cell.workload, bench.parameters, cell.warm_ratio)
    files_bytes = root_bytes(fill, bench.image.root.stat().st_size)
    with new_guest(bench, files_bytes, tell) as guest:
        cycle = _Cycle(bench, cell, guest, tell, blank)
        try:
            return cycle.run()
        except LabError as error:
            return replace(
                cycle.sample,
                failure=str(error).splitlines()[0],
                console="\n".join(["--- " + str(error), *guest.consoles]),
            )


class _Cycle:
    """The steps of one cycle. ``sample`` has what is known so far."""

    def __init__(self, bench: Bench, cell: Cell, guest: Guest, tell: Tell, sample: Sample) -> None:
        self._bench = bench
        self._cell = cell
        self._guest = guest
        self._tell = tell
        self._loads: Loads
        self._filled_free_bytes = 0
        self.sample = sample

    def run(self) -> Sample:
        self._boot()
        self._fill()
        self._settle()
        prepared = self._prepare()
        self._hibernate(prepared)
        self._resume()
        self._look()
        self._verify()
        return self.sample

    def _note(self, **values: Any) -> None:  # noqa: ANN401  # the sample's own fields
        self.sample = replace(self.sample, **values)

    def _boot(self) -> None:
        self._tell("booting")
        self._guest.start()
        self._note(accelerator=self._guest.accelerator)
        if self._cell.condition in OF_HIBPREP:
            self._install()
        if self._cell.image_size != DEFAULT_IMAGE_SIZE:
            preparations.set_file(self._guest, _IMAGE_SIZE, self._cell.image_size)
        if self._bench.parameters.compressor is not None:
            preparations.set_file(self._guest, _COMPRESSOR, self._bench.parameters.compressor)

    def _install(self) -> None:
        self._guest.install(self._bench.wheel)
        text = b""
        if self._bench.calibration is not None:
            text += configuration(self._bench.calibration)
        if self._cell.condition is Condition.HIBPREPD:
            text += daemon.settings(self.sample.budget_seconds)
            daemon.put(self._guest)
        if self._cell.condition in EMPTIED:
            text += hook.settings(swap_in=self._cell.condition is Condition.ALL_BACK)
        if text:
            self._guest.put(text, CONFIG_FILE)
        if self._cell.condition in EMPTIED:
            hook.put(self._guest)

    def _fill(self) -> None:
        self._tell("filling")
        self._loads = Loads(self._guest, self._cell, self._bench.parameters)
        self._note(fill_seconds=round(self._loads.start(), 2))

    def _settle(self) -> None:
        self._filled_free_bytes = preparations.free_bytes(self._guest)
        begins_by_itself = self._cell.condition is Condition.HIBPREPD
        if begins_by_itself:
            self._loads.touch(TOUCH_SECONDS)  # or there might have been no pass yet
            self._at_rest()
        preparations.before_settling(self._guest, self._cell.condition)
        self._tell("settling")
        # not to wait for something: being left alone for so long is what is measured
        time.sleep(self._bench.parameters.settle_seconds)
        if not begins_by_itself:
            self._at_rest()

    def _at_rest(self) -> None:
        """How the working set is before anything is taken; its slowest pass counts from here."""
        if self._cell.workload in HAS_WORKING_SET:
            self._note(usual_pass_seconds=round(self._loads.usual_pass_seconds(), 4))
        self._loads.reset()

    def _prepare(self) -> preparations.Prepared:
        self._tell("preparing")
        prepared = preparations.prepare(
            self._guest,
            self._cell.condition,
            self._bench.parameters.memory_bytes,
            self._filled_free_bytes,
        )
        if self._cell.condition in EMPTIED:
            # The lid is closed on a machine that is in use: all of the working set is back. And a
            # program that is frozen in the middle of a pass cannot tell what it finds afterwards.
            self._loads.touch(TOUCH_SECONDS)
        return prepared

    def _hibernate(self, prepared: preparations.Prepared) -> None:
        condition = self._cell.condition
        self._tell("hibernating")
        argv = preparations.request(condition, self.sample.budget_seconds)
        timing = self._guest.hibernate(argv, timeout=HIBERNATE_SECONDS)
        asked = timing.seconds_at(preparations.ASKING) if condition in ASKED else 0.0
        self._note(
            prepare_seconds=round(prepared.seconds + asked, 3),
            prepare_bytes=prepared.freed_bytes,
            hibernate_seconds=round(timing.seconds - asked, 3),
        )

    def _resume(self) -> None:
        self._tell("resuming")
        seconds = self._guest.resume(timeout=RESUME_SECONDS)
        answered = time.monotonic()
        self._note(resume_seconds=round(seconds, 3))
        self._loads.touch(TOUCH_SECONDS)
        self._note(usable_seconds=round(seconds + time.monotonic() - answered, 3))

    def _look(self) -> None:
        self._note(swap_used_bytes=preparations.swap_used_bytes(self._guest))
        if self._cell.condition in ASKED:
            self._note(**_reported(self._guest))
        elif self._cell.condition is Condition.HIBPREPD:
            self._note(predicted_seconds=daemon.predicted_seconds(self._guest))
        if self._cell.workload in HAS_WORKING_SET:
            self._note(
                slowest_pass_seconds=self._loads.slowest_pass_seconds(),
                resident_ratio=self._loads.resident_ratio(),
            )
        if self._cell.condition in EMPTIED:
            self._note(predicted_seconds=hook.predicted_seconds(self._guest))
        self._note(**_from_console(self._guest.hibernation_facts()))
        if self._cell.condition in EMPTIED:
            must_be_empty(self.sample)

    def _verify(self) -> None:
        self._tell("comparing every byte")
        self._guest.throttle(0)
        damage = self._loads.damage(VERIFY_SECONDS)
        has_any = self._cell.condition is not Condition.IDLE
        self._note(intact=not damage if has_any else None)
        if damage:
            raise LabError(f"damaged: {damage}")


def _reported(guest: Guest) -> dict[str, Any]:
    """What hibprep itself reported: after the resume, when its command has ended."""
    result = guest.hibernation_result()
    try:
        report = result.json()
    except json.JSONDecodeError as error:
        raise LabError(f"hibprep hibernate: {result.error_text.strip()}") from error
    return {
        "prepare_bytes": report["freed"]["free_gain_bytes"],
        "predicted_seconds": report["hibernation"]["predicted_hibernate_seconds"],
    }


def must_be_empty(sample: Sample) -> None:
    """Nothing can be said of bringing back what was there all the time."""
    left = sample.resident_ratio
    if sample.workload in HAS_WORKING_SET and (left is None or left > _EMPTY_RATIO):
        words = "nobody knows how much" if left is None else f"{left:.0%}"
        raise LabError(f"not what is to be measured: {words} of the working set was still there")


def _from_console(facts: ConsoleFacts) -> dict[str, Any]:
    """What the kernel printed."""
    if facts.failure is not None:
        raise LabError(f"the kernel said: {facts.failure}")
    return {
        "image_pages": image_pages(facts),
        "image_compressed_bytes": facts.image_compressed_bytes,
        "shrink_seconds": facts.allocate_seconds,
        "write_seconds": facts.write_seconds,
        "read_seconds": facts.read_seconds,
    }
