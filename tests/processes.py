# SPDX-License-Identifier: LGPL-2.1-or-later
"""What has become of a process that need not be ours."""

from __future__ import annotations

from pathlib import Path


def ended(pid: int) -> bool:
    """Whether it runs no more; whoever has to reap it may take its time."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")
