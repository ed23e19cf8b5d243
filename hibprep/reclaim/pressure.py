# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pressure of others (PSI, Documentation/accounting/psi.rst), which paces the executor.

A reclaiming task's own stalls are not counted as memory pressure, so what is seen in the slices is
what the work of others suffers: refaults and waits for swap-in. I/O pressure would be mostly our
own swap-out and is left out.
"""

from __future__ import annotations

from hibprep.clock import Clock
from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.psi import try_pressure
from hibprep.kernel.root import KernelRoot


class PressureGauge:
    """The share of time, 0 to 1, for which some task was stalled on `resource` (memory or io) since
    the last look; of the top-level cgroup that suffered most, or of the whole machine where there
    is no cgroup v2."""

    def __init__(
        self, root: KernelRoot, tree: CgroupTree | None, clock: Clock, resource: str = "memory"
    ) -> None:
        self._root = root
        self._tree = tree
        self._clock = clock
        self._resource = resource
        self._totals: dict[str, float] = {}
        self._at = clock.monotonic()

    def sample(self) -> float:
        """Since the previous sample; 0.0 where PSI is off."""
        now = self._clock.monotonic()
        elapsed, self._at = now - self._at, now
        worst = 0.0
        for directory in self._directories():
            pressure = try_pressure(self._root, self._resource, directory)
            if pressure is None:
                continue
            total = pressure.some_total_seconds
            stalled = total - self._totals.get(directory, total)
            self._totals[directory] = total
            if elapsed > 0:
                worst = max(worst, stalled / elapsed)
        return min(1.0, worst)

    def _directories(self) -> list[str]:
        if self._tree is None:
            return [""]
        try:
            children = self._tree.children("/")
        except KernelFileError:
            return [""]
        return [self._tree.directory(child) for child in children if child.endswith(".slice")] or [
            ""
        ]
