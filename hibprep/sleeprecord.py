# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is remembered over a sleep: written before it, closed after it, in
`/var/lib/hibprep/sleep.json`.

On the disk and not in /run, so that a machine that never came back out of its image, and was
started anew, can say so in its history.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from hibprep.history import STATE_DIRECTORY
from hibprep.kernel.durable import replace_durably
from hibprep.model import Report

FILE_NAME = "sleep.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SleepRecord:
    """One sleep that has been prepared for.

    `offset_seconds` is CLOCK_BOOTTIME − CLOCK_MONOTONIC before it: it grows by the time asleep, and
    that is how a sleep is told from one that was refused.
    """

    boot_id: str
    leg: str
    offset_seconds: float
    image_size_held_bytes: int  # what was in force
    image_size_reason: str
    report: Report


class RecordFile:
    """The record under one root."""

    def __init__(self, root_prefix: str = "/") -> None:
        self.path = Path(root_prefix or "/") / STATE_DIRECTORY / FILE_NAME

    def save(self, record: SleepRecord) -> str:
        """Write it durably: the power is about to go. Returns why not, or ""."""
        document = {"version": _VERSION, "record": dataclasses.asdict(record)}
        try:
            replace_durably(self.path, json.dumps(document).encode())
        except OSError as error:
            return f"no record of this sleep: {self.path}: {error.strerror or error}"
        return ""

    def load(self) -> SleepRecord | None:
        """The record that was not closed; None when there is none, or none that makes sense."""
        # only where there was a sleep: whoever looks in vain need not load the library
        try:
            text = self.path.read_bytes()
        except OSError:
            return None
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

        try:
            document = json.loads(text)
            if document["version"] != _VERSION:
                return None
            return TypeAdapter(SleepRecord).validate_python(document["record"])
        except (ValueError, KeyError, TypeError, ValidationError):
            return None

    def remove(self) -> str:
        """Take it away; returns why not, or ""."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        return ""
