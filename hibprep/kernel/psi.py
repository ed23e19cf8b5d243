# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pressure stall information, of the machine and of a cgroup (Documentation/accounting/psi.rst);
and the counters of /proc/vmstat that are left where there is none."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing
from hibprep.kernel.root import KernelRoot, translate
from hibprep.kernel.text import fraction, malformed, unsigned
from hibprep.kernel.vmstat import VMSTAT
from hibprep.model import Pressure

PRESSURE = "/proc/pressure"

_MICROSECONDS = 1_000_000


def parse_pressure(text: str, path: str = PRESSURE) -> Pressure:
    """The text of a PSI file; `full` is missing from the machine's cpu before 5.13."""
    averages: dict[str, float] = {}
    totals: dict[str, float] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()[:5] or [""]
        if kind not in ("some", "full"):
            continue
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if "avg10" not in values or "total" not in values:
            raise malformed(path, "avg10= and total=", line)
        averages[kind] = fraction(values["avg10"], path)
        totals[kind] = unsigned(values["total"], path) / _MICROSECONDS
    if "some" not in totals:
        raise malformed(path, 'a line that starts with "some"', text)
    return Pressure(
        some_total_seconds=totals["some"],
        full_total_seconds=totals.get("full", 0.0),
        some_avg10=averages["some"],
        full_avg10=averages.get("full", 0.0),
    )


def pressure_file(resource: str, directory: str = "") -> str:
    """Where the pressure on "cpu", "io" or "memory" is told, in the cgroup of `directory` or on the
    machine."""
    return f"{directory}/{resource}.pressure" if directory else f"{PRESSURE}/{resource}"


def read_pressure(root: KernelRoot, resource: str, directory: str = "") -> Pressure:
    """Pressure on "cpu", "io" or "memory", in the cgroup of `directory` or on the machine.

    A kernel that has PSI compiled in and switched off has the files too; reading them fails.
    """
    path = pressure_file(resource, directory)
    try:
        text = root.read(path)
    except KernelFileError as error:
        raise _explained(error) from error
    return parse_pressure(text, path)


def try_pressure(root: KernelRoot, resource: str, directory: str = "") -> Pressure | None:
    """`read_pressure`, or None where there is none."""
    try:
        return read_pressure(root, resource, directory)
    except (KernelFileMissing, KernelFileDenied):
        return None


def open_trigger(
    root: KernelRoot,
    resource: str,
    directory: str = "",
    *,
    stall_seconds: float,
    window_seconds: float,
) -> int:
    """A descriptor that has POLLPRI, at most once a window, when some task was stalled for
    `stall_seconds` of a window, and POLLERR once the cgroup is gone. The trigger ends with it.

    The window is 0.5 to 10 s, and for one without CAP_SYS_RESOURCE a multiple of 2 s (old
    kernels, 6.1 as it was released, do not let in such a one at all). Raises as `read_pressure`
    does, and KernelFileError for a window that the kernel does not take.
    """
    path = pressure_file(resource, directory)
    stall, window = (round(each * _MICROSECONDS) for each in (stall_seconds, window_seconds))
    try:
        descriptor = os.open(root.path(path), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # the kernel puts a zero byte over the last one, whatever it is
            os.write(descriptor, f"some {stall} {window}\0".encode())
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _explained(translate(path, error)) from error
    return descriptor


class StallCounters(NamedTuple):
    """How often allocations on this machine had to reclaim memory themselves, how many pages they
    looked at, and how many pages were read again that had been reclaimed before.

    The first two are not moved by memory.reclaim, nor by a cgroup at its limit (mm/vmscan.c counts
    them where no cgroup is the target). None of them tells for how long anyone waited, nor who.
    """

    direct_reclaims: int = 0
    scanned_pages: int = 0
    refaulted_pages: int = 0


def parse_stall_counters(text: str) -> StallCounters:
    """From the text of /proc/vmstat; 0 where the kernel counts no events."""
    reclaims = scanned = refaulted = 0
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("allocstall"):
            reclaims += unsigned(value.strip(), VMSTAT)
        elif name == "pgscan_direct":
            scanned += unsigned(value.strip(), VMSTAT)
        elif name.startswith("workingset_refault"):
            refaulted += unsigned(value.strip(), VMSTAT)
    return StallCounters(reclaims, scanned, refaulted)


def read_stall_counters(root: KernelRoot) -> StallCounters:
    """As they are now."""
    return parse_stall_counters(root.read(VMSTAT))


def _explained(error: KernelFileError) -> KernelFileError:
    """What an error of a PSI file means."""
    path, number = error.path, error.errno
    if isinstance(error, KernelFileMissing):
        remedy = "boot a kernel with CONFIG_PSI"
        return KernelFileMissing(path, "no pressure information", number, remedy)
    if number == errno.EOPNOTSUPP:
        remedy = "boot with psi=1"
        return KernelFileMissing(path, "pressure information is switched off", number, remedy)
    if number == errno.EINVAL:
        remedy = "without CAP_SYS_RESOURCE the window must be a multiple of 2 s"
        return KernelFileError(path, "the kernel does not take this trigger", number, remedy)
    if isinstance(error, KernelFileDenied) and not error.remedy:
        # as root already: old kernels want more
        remedy = "keep CAP_SYS_RESOURCE"
        return KernelFileDenied(path, os.strerror(number), number, remedy)
    return error
