# SPDX-License-Identifier: LGPL-2.1-or-later
"""A look at the machine for the daemon: what a hibernation would take now, and whether it fits."""

from __future__ import annotations

import logging
from dataclasses import replace

from hibprep import fitting, predict, rates
from hibprep.clock import Clock
from hibprep.config import Config
from hibprep.errors import KernelFileError
from hibprep.machine import Machine, snapshot_of
from hibprep.model import MACHINE
from hibprep.standing import Facts

log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0  # what is shown may be so old: whoever asks often must cost nothing


class Look:
    """Facts, read anew when they are too old; what cannot be read stays away."""

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._facts = Facts()
        self._at_seconds = -FRESH_SECONDS

    def forget(self) -> None:
        """The machine has changed: the next look is a new one."""
        self._at_seconds = -FRESH_SECONDS

    def unprepared(self, config: Config) -> None:
        """Nothing is prepared now: remember what a hibernation would take like this."""
        self._facts = replace(self._facts, unprepared=self.facts(config).prediction)

    def facts(self, config: Config, *, fresh: bool = False) -> Facts:
        """No older than FRESH_SECONDS, or of this moment."""
        now = self._clock.monotonic()
        if not fresh and now - self._at_seconds < FRESH_SECONDS:
            return self._facts
        self._at_seconds = now
        try:
            snapshot = snapshot_of(self._machine, MACHINE)
            speeds = rates.combine(rates.load(self._machine.root), config.rates())
        except (KernelFileError, OSError) as error:
            log.warning("the machine cannot be looked at: %s", error)
            self._facts = replace(self._facts, snapshot=None, prediction=None, fit=None)
            return self._facts
        self._facts = replace(
            self._facts,
            snapshot=snapshot,
            prediction=predict.predict(snapshot, speeds),
            fit=fitting.fit(snapshot, config.limits()),
        )
        return self._facts
