# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon looks at once in a while: processors, power, pressure, and for the policy
`continuous` what a hibernation would take. All other sources tell by themselves."""

from __future__ import annotations

import os
from collections.abc import Callable

from hibprep.clock import Clock
from hibprep.config import Config
from hibprep.events import Predicted, Pressure, Signal
from hibprep.kernel.process import child_pids
from hibprep.looking import Look
from hibprep.machine import Machine
from hibprep.policy import Kind, Policy
from hibprep.reclaim.pressure import PressureGauge
from hibprep.signals.base import Source
from hibprep.signals.cpu import CpuSource
from hibprep.signals.power import Power
from hibprep.signals.pressure import PressureSource

# Two wake-ups in ten seconds are all that is allowed at rest; logind's poll has some of them.
SAMPLE_SECONDS = 15.0


class Sampling:
    """The sources that are looked at, and when."""

    def __init__(
        self, machine: Machine, look: Look, clock: Clock, emit: Callable[[Signal], None]
    ) -> None:
        root, tree = machine.root, machine.tree
        self._root = root
        self._look = look
        self._emit = emit
        self._power = Power(root, clock)
        self._pressure = PressureSource(root, tree, clock)
        self._cpu = CpuSource(root, clock, self._own_pids)
        self._gauges = {
            resource: PressureGauge(root, tree, clock, resource) for resource in ("memory", "io")
        }
        self.sources: tuple[Source, ...] = (self._power, self._pressure, self._cpu)

    @staticmethod
    def pause_seconds(policy: Policy) -> float:
        """Until the next look."""
        period = policy.period_seconds if policy.kind is Kind.CONTINUOUS else SAMPLE_SECONDS
        return min(SAMPLE_SECONDS, period)

    def take(self, policy: Policy, config: Config) -> None:
        """Look at all of it."""
        self._cpu.sample()
        self._power.refresh()
        self._pressure.refresh()
        if policy.kind is Kind.CONTINUOUS:
            self._measure_for_pace(config)

    def _measure_for_pace(self, config: Config) -> None:
        """What the policy `continuous` decides by."""
        for resource, gauge in self._gauges.items():
            self._emit(Pressure(resource=resource, scope="other programs", share=gauge.sample()))
        found = self._look.facts(config, fresh=True).prediction
        if found is not None:
            self._emit(
                Predicted(found.hibernate_seconds, found.resume_seconds, found.saveable_bytes)
            )

    def _own_pids(self) -> list[int]:
        own = os.getpid()
        return [own, *child_pids(self._root, own)]
