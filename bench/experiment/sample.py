# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one cycle measured: one line of a results file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Condition(StrEnum):
    """What is done before the request to hibernate."""

    VANILLA = "vanilla"
    DROPCACHES = "dropcaches"
    ONELINER = "oneliner"
    DAMON_RECLAIM = "damon_reclaim"
    HIBPREP = "hibprep"
    HIBPREPD = "hibprepd"
    ALL_OUT = "all-out"
    ALL_BACK = "all-back"
    IDLE = "idle"


# hibprep itself, asked or left to itself: what is measured here is its code
OF_HIBPREP = frozenset(
    {Condition.HIBPREP, Condition.HIBPREPD, Condition.ALL_OUT, Condition.ALL_BACK}
)
# those that prepare within their own request
ASKED = frozenset({Condition.HIBPREP})
# those in which the working set is to go as well, while its programs are frozen for the sleep
EMPTIED = frozenset({Condition.ALL_OUT, Condition.ALL_BACK})
# those that are given a time where there is a working set; the others take all there is
GIVEN_TIME = frozenset({Condition.HIBPREP, Condition.HIBPREPD})


class WorkloadKind(StrEnum):
    """What fills the guest's memory. ``NONE`` is the idle guest's."""

    COLD = "cold"
    WARM = "warm"
    CACHE = "cache"
    TMPFS = "tmpfs"
    MIXED = "mixed"
    NONE = "none"


class Arrangement(StrEnum):
    """Whether the cold bulk and the working set are two programs (and cgroups), or one."""

    APART = "apart"
    TOGETHER = "together"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One hibernation and resume, or what became of it.

    All times are seconds from outside the guest; the kernel's own (``shrink``, ``write``,
    ``read``) are what it printed on the console, None where it printed nothing. A cycle that
    failed says why in ``failure`` and has the whole ``console``; what it did not get to measure is
    None. ``image_size`` is ``"default"`` or bytes, as it was asked for.
    """

    condition: Condition
    workload: WorkloadKind
    image_size: str
    run: int
    arrangement: Arrangement = Arrangement.APART
    # the working set by memory, 0 where there is none
    warm_ratio: float = 0.0
    kernel: str = ""
    accelerator: str = ""
    # a hash of hibprep's code: only of its own conditions are samples of other code outdated
    code: str = ""
    started: str = ""  # UTC, ISO 8601

    # from the beginning of the preparation, or the end of the rest if it had begun by itself, to
    # the request; 0 where nothing is prepared
    prepare_seconds: float | None = None
    prepare_bytes: int | None = None
    # the request (systemctl, or hibprep asking logind) to power-off
    hibernate_seconds: float | None = None
    # power-on to the first answer
    resume_seconds: float | None = None
    # power-on until the working set was touched once more in full
    usable_seconds: float | None = None
    # one pass over the working set: at rest, and the slowest of those that ended while memory was
    # prepared; None where none ended, as when nothing is prepared. By the program's own clock.
    usual_pass_seconds: float | None = None
    slowest_pass_seconds: float | None = None
    # of the working set, in memory after the resume and before it was touched: 0 to 1
    resident_ratio: float | None = None
    # the time that hibprep was given (within), and what it predicted of hibernate_seconds
    budget_seconds: float | None = None
    predicted_seconds: float | None = None

    image_pages: int | None = None
    image_compressed_bytes: int | None = None
    shrink_seconds: float | None = None
    write_seconds: float | None = None
    read_seconds: float | None = None
    # used after resume: by the preparation and by the kernel's own shrinking
    swap_used_bytes: int | None = None
    # every byte of the workload was compared; None where there is nothing to compare
    intact: bool | None = None

    fill_seconds: float | None = None
    failure: str = ""
    console: str = ""

    @property
    def failed(self) -> bool:
        """Whether it came to nothing, or came back damaged."""
        return bool(self.failure)
