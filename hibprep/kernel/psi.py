# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pressure stall information, of the machine and of a cgroup (Documentation/accounting/psi.rst)."""

from __future__ import annotations

import errno

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import fraction, malformed, unsigned
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


def read_pressure(root: KernelRoot, resource: str, directory: str = "") -> Pressure:
    """Pressure on "cpu", "io" or "memory", in the cgroup of `directory` or on the machine.

    A kernel that has PSI compiled in and switched off has the files too; reading them fails.
    """
    path = f"{directory}/{resource}.pressure" if directory else f"{PRESSURE}/{resource}"
    try:
        text = root.read(path)
    except KernelFileMissing as error:
        raise KernelFileMissing(
            path, "no pressure information", error.errno, "boot a kernel with CONFIG_PSI"
        ) from error
    except KernelFileError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise KernelFileMissing(
            path, "pressure information is switched off", error.errno, "boot with psi=1"
        ) from error
    return parse_pressure(text, path)


def try_pressure(root: KernelRoot, resource: str, directory: str = "") -> Pressure | None:
    """`read_pressure`, or None where there is none."""
    try:
        return read_pressure(root, resource, directory)
    except (KernelFileMissing, KernelFileDenied):
        return None
