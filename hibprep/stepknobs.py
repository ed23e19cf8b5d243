# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings that hold for the steps of some stages alone: changed before the first of them, put back
before the next step of another stage."""

from __future__ import annotations

from typing import Protocol

from hibprep.errors import KernelFileError
from hibprep.kernel.knobs import knob_name
from hibprep.model import KnobChange, Plan, Step


class Journal(Protocol):
    """The part of `hibprep.kernel.knobs.KnobJournal` that is worked with here."""

    def set(self, path: str, value: str, reason: str) -> None:
        """Change a setting; KernelFileError when that does not work."""

    def put_back(self, path: str) -> list[str]:
        """Put it back; words for the report."""


class StepKnobs:
    """Those of one plan. What the last step leaves changed is the journal's to put back. `words`
    is added to: what was done, for the report."""

    def __init__(self, plan: Plan, journal: Journal, words: list[str]) -> None:
        self._changes = tuple(change for change in plan.knobs if change.stages)
        self._journal = journal
        self._words = words
        self._changed: list[KnobChange] = []

    def enter(self, step: Step) -> None:
        """Make ready for a step. What cannot be changed is told, and no reason to do nothing."""
        for change in reversed(self._changed):
            if step.stage not in change.stages:
                self._words.append(words_of(change))
                self._words += self._journal.put_back(change.path)
        self._changed = [change for change in self._changed if step.stage in change.stages]
        for change in self._changes:
            if step.stage in change.stages and change not in self._changed:
                try:
                    self._journal.set(change.path, change.value, change.reason)
                except KernelFileError as error:
                    self._words.append(f"{knob_name(change.path)} was left as it is: {error}")
                else:
                    self._changed.append(change)


def words_of(change: KnobChange) -> str:
    """What was changed, for a report."""
    return f"{knob_name(change.path)} was set to {change.value}: {change.reason}"
