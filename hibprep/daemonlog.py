# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon says in the journal of what it heard and of what came of it.

A round of the policy continuous is no news, and a source that is tried again in vain is told of
once: what is said all the time hides what matters.
"""

from __future__ import annotations

import logging

from hibprep.events import RunEnded, SourceChanged, SourceState
from hibprep.model import Ending
from hibprep.policy import Kind, Policy
from hibprep.state import Decision, Phase, State

log = logging.getLogger(__name__)


def source_changed(before: State, changed: SourceChanged) -> None:
    """A source works, or does not any more."""
    known = before.view.sources.get(changed.source)
    if known == SourceState(changed.works, changed.reason):
        return
    how = "works" if changed.works else "does not work"
    level = logging.INFO if changed.works else logging.WARNING
    log.log(level, "source %s %s: %s", changed.source, how, changed.reason)


def decided(decision: Decision) -> None:
    """What is done now. A trickle would fill the journal."""
    level = logging.INFO if decision.amount_bytes is None else logging.DEBUG
    log.log(level, "%s: %s", decision.act, decision.reason)


def run_ended(ended: RunEnded, policy: Policy) -> None:
    """How a run of reclaim ended, and what it freed."""
    quiet = policy.kind is Kind.CONTINUOUS and ended.ending is not Ending.FAILED
    log.log(
        logging.DEBUG if quiet else logging.INFO,
        "run ended, %s: %s; freed %d bytes", ended.ending, ended.reason, ended.freed_bytes,
    )  # fmt: skip


def phase_changed(before: State, after: State, policy: Policy) -> None:
    """From one phase to the next."""
    round_ = Phase.RECLAIMING in (after.phase, before.phase) and after.request is None
    quiet = round_ and policy.kind is Kind.CONTINUOUS
    log.log(logging.DEBUG if quiet else logging.INFO, "%s: %s", after.phase, after.reason)
