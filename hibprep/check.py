# SPDX-License-Identifier: LGPL-2.1-or-later
"""Will it fit, and will it work: every finding with what to type.

`findings` judges and reads nothing, so that every verdict can be tested by table; `gather` (in
`hibprep.facts`) reads. The topics are in `hibprep.checks`.
"""

from __future__ import annotations

from hibprep.checks import manners, memory, permission, place, returning, room
from hibprep.checks.finding import Finding, Severity
from hibprep.facts import CheckFacts, gather

__all__ = ["CheckFacts", "Finding", "Severity", "findings", "gather", "possible"]

_TOPICS = (permission, place, returning, room, memory, manners)


def findings(facts: CheckFacts) -> tuple[Finding, ...]:
    """The verdicts, the worst first."""
    order = list(Severity)
    found = [
        *(finding for topic in _TOPICS for finding in topic.findings(facts)),
        *(
            Finding(Severity.INFO, "not-seen", text, "run: sudo hibprep check")
            for text in facts.unseen
        ),
    ]
    return tuple(sorted(found, key=lambda item: order.index(item.severity)))


def possible(found: tuple[Finding, ...]) -> bool:
    """Whether hibernation is possible here."""
    return not any(item.severity is Severity.ERROR for item in found)
