# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon that the control socket and the bus service can be part of."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from hibprep.errors import HibprepError
from hibprep.events import GuestEvent, RunEnded
from hibprep.notices import NoticeKind
from hibprep.status import SourceStatus, Status

STATUS = Status(
    phase="reclaiming",
    reason="idle 5 min 2 s: seat0 locked",
    since="2026-11-21T14:02:00Z",
    policy="idle",
    stage="cold-anon",
    done_stages=("sync", "cache"),
    progress={
        "stage": "cold-anon",
        "done_bytes": 1 << 20,
        "amount_bytes": 1 << 30,
        "saveable_bytes": 3 << 30,
        "goal_bytes": 1 << 30,
    },
    next_step="anon in 2 min 10 s",
    next_at="2026-11-21T14:09:00Z",
    prediction={
        "hibernate_seconds": 4.25,
        "resume_seconds": 9.5,
        "saveable_bytes": 3 << 30,
        "unprepared_hibernate_seconds": 49.0,
    },
    swap={"total_bytes": 8 << 30, "free_bytes": 7 << 30},
    fit="fits",
    fit_ok=True,
    sources=(
        SourceStatus("logind", works=True, reason="2 sessions"),
        SourceStatus("pressure", works=False, reason="boot with psi=1"),
    ),
    last_report={"started": "2026-11-20T20:00:00Z", "ending": "done", "freed_bytes": 1 << 30},
    written_today_bytes=5 << 20,
    write_budget_bytes=10 << 30,
)

NOTICES: dict[str, object] = {
    "provider": "aws",
    "works": True,
    "reason": "aws: looks at spot/instance-action, rebalance",
    "watches": [
        {
            "name": "spot/instance-action",
            "words": "404: nothing is announced",
            "at": "2026-11-22T14:02:07+00:00",
            "failures": 0,
        },
        {"name": "rebalance", "words": "no answer", "at": "", "failures": 2},
    ],
    "notices": [
        {
            "kind": "stop",
            "source": "aws",
            "id": "stop-2026-11-22T14:04:00Z",
            "text": "",
            "deadline": "2026-11-22T14:04:00+00:00",
            "seconds_left": 112.5,
            "progress": "at work",
            "doing": "run",
            "done": ["prepare: done: the target is reached"],
            "todo": ["hibernate"],
        },
    ],
}


class FakeHost:
    """`hibprep.status.Host`, told by the test what happens."""

    def __init__(self, status: Status = STATUS) -> None:
        self.shown = status
        self.sleeps: list[tuple[str, float]] = []
        self.stops: bool | Exception | None = True  # None: never answers
        self.wakings: list[float] = []
        self.patience_seconds = 0.0
        self.refuses = ""
        self.asked: list[GuestEvent] = []
        self.simulated: list[tuple[NoticeKind, float | None, str]] = []
        self.off: HibprepError | None = None  # nobody listens for notices
        self.asking: asyncio.Event | None = None  # until it is set, the source is being asked
        self._changes: list[asyncio.Future[None]] = []
        self._ends: list[asyncio.Future[RunEnded]] = []

    def status(self) -> Status:
        return self.shown

    async def changed(self) -> None:
        self._changes.append(asyncio.get_running_loop().create_future())
        await self._changes[-1]

    async def run_ended(self) -> RunEnded:
        self._ends.append(asyncio.get_running_loop().create_future())
        return await self._ends[-1]

    async def before_sleep(self, leg: str, seconds: float) -> tuple[bool, list[str]]:
        self.sleeps.append((leg, seconds))
        if self.stops is None:
            await asyncio.get_running_loop().create_future()
        if isinstance(self.stops, Exception):
            raise self.stops
        return bool(self.stops), ["image_size: held"] if leg else []

    async def after_sleep(self, seconds: float) -> list[str]:
        self.wakings.append(seconds)
        return ["image_size put back"]

    def incoming_seconds(self, event: GuestEvent) -> float:  # noqa: ARG002 - Host's signature
        return self.patience_seconds

    async def incoming(self, event: GuestEvent) -> str:
        self.asked.append(event)
        if self.asking is not None:
            await self.asking.wait()
        return self.refuses

    def notices(self) -> dict[str, object]:
        if self.off is not None:
            raise self.off
        return dict(NOTICES)

    def simulate(self, kind: NoticeKind, seconds: float | None, who: str) -> str:
        if self.off is not None:
            raise self.off
        self.simulated.append((kind, seconds, who))
        return "1a2b3c4d"

    def change(self, **fields: Any) -> None:  # noqa: ANN401 - those of Status
        self.shown = dataclasses.replace(self.shown, **fields)
        waiting, self._changes = self._changes, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def end(self, run: RunEnded) -> None:
        waiting, self._ends = self._ends, []
        for future in waiting:
            if not future.done():
                future.set_result(run)
