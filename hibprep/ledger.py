# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon swapped out today, kept across its starts: the day's write budget is the disk's,
not the process's."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from hibprep.history import STATE_DIRECTORY

FILE_NAME = "written.json"


class Ledger:
    """The file under one root. What cannot be read counts as nothing written."""

    def __init__(self, root_prefix: str = "/") -> None:
        self.path = Path(root_prefix or "/") / STATE_DIRECTORY / FILE_NAME

    def load(self) -> tuple[date | None, int]:
        """The day and the bytes; (None, 0) when nothing is kept, or nothing that makes sense."""
        try:
            kept = json.loads(self.path.read_bytes())
            day, written = date.fromisoformat(kept["day"]), int(kept["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, 0
        return day, max(0, written)

    def save(self, day: date, written_bytes: int) -> str:
        """Keep it; returns why not, or ""."""
        temporary = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"day": day.isoformat(), "bytes": written_bytes}))
            temporary.replace(self.path)
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        return ""
