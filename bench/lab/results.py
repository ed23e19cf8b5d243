# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command run in the guest came back with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """The end of one command: its return code and everything it said."""

    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, undecodable bytes replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        """Standard error as text, undecodable bytes replaced."""
        return self.stderr.decode(errors="replace")

    def json(self) -> Any:  # noqa: ANN401  # JSON
        """Standard output read as one JSON value."""
        return json.loads(self.stdout)
