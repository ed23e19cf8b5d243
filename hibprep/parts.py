# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of the daemon that its rooms work with (`hibprep.rooms`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from hibprep.asleep import AroundSleep
from hibprep.bringback import BringBack
from hibprep.config import Config
from hibprep.events import RunEnded, Signal
from hibprep.machine import Machine
from hibprep.runner import Runner
from hibprep.signals.logind import Logind


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All of them belong to the daemon, and are used on its event loop."""

    machine: Machine
    config: Callable[[], Config]  # as it is in force now
    emit: Callable[[Signal], None]
    run_ended: Callable[[], Coroutine[Any, Any, RunEnded]]
    changed: Callable[[], None]  # what the daemon shows is other than it was
    runner: Runner
    bringing: BringBack
    around: AroundSleep
    logind: Logind
