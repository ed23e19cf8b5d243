# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells hibprep in the guest how fast this machine hibernates.

A guest cannot time its own power-off, so an admin who wants ``--within`` to be kept measures it
from outside and configures it; this does the same. Two hibernations of images of different size
are enough for a straight line: fixed seconds, and bytes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.experiment.results import Calibration
from bench.lab import ConsoleFacts, LabError, Workload

if TYPE_CHECKING:
    from bench.lab import Guest

PAGE = 4096
CONFIG_FILE = "/etc/hibprep/hibprep.toml"


def image_pages(facts: ConsoleFacts) -> int:
    """Pages in the image; from 7.x on the kernel tells only how many bytes it wrote."""
    if facts.need_to_copy_pages is not None:
        return facts.need_to_copy_pages
    if facts.wrote_bytes is None:
        raise LabError("the kernel did not say how large the image was")
    return facts.wrote_bytes // PAGE


def calibrate(guest: Guest, more_bytes: int) -> Calibration:
    """Hibernate a guest that has just booted, and again with ``more_bytes`` filled."""
    idle = guest.hibernate()
    guest.resume()
    workload = Workload(guest, warm_bytes=more_bytes, name="calibrate")
    workload.start()
    fuller = guest.hibernate()
    guest.resume()
    return line_through(
        (image_pages(idle.facts), idle.seconds), (image_pages(fuller.facts), fuller.seconds)
    )


def line_through(idle: tuple[int, float], fuller: tuple[int, float]) -> Calibration:
    """The straight line through two hibernations, each of pages and seconds."""
    more_bytes = (fuller[0] - idle[0]) * PAGE
    more_seconds = fuller[1] - idle[1]
    if more_bytes <= 0 or more_seconds <= 0:
        raise LabError(
            f"no speed can be told from {idle[0]} pages in {idle[1]:.1f} s and "
            f"{fuller[0]} in {fuller[1]:.1f} s; is something else running on this machine?"
        )
    speed = more_bytes / more_seconds
    fixed = max(0.0, idle[1] - idle[0] * PAGE / speed)
    return Calibration(
        fixed_seconds=round(fixed, 2),
        bytes_per_second=float(round(speed)),
        idle_seconds=round(idle[1], 3),
        fuller_seconds=round(fuller[1], 3),
        idle_pages=idle[0],
        fuller_pages=fuller[0],
    )


def configuration(calibration: Calibration) -> bytes:
    """The configuration file of hibprep: the line, all of it as the speed of compressing."""
    return f"""[rates]
fixed_hibernate_seconds = {calibration.fixed_seconds}
# compressing, copying and writing together
compress_bytes_per_second = {calibration.bytes_per_second:.1f}
copy_bytes_per_second = 1e12
disk_write_bytes_per_second = 1e9
""".encode()
