# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the commands that systemd and the bus are told with."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hibprep.install.systemd import Command

# A unit that is stopped may take its TimeoutStopSec first.
_SECONDS = 60.0

Run = Callable[[tuple[str, ...]], str]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was run, and why it failed, or ""."""

    argv: tuple[str, ...]
    why: str
    error: str = ""


def run(argv: tuple[str, ...]) -> str:
    """Run one command; returns why it failed, or ""."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {_SECONDS:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split()) or f"exit code {done.returncode}"


def run_all(commands: Iterable[Command], with_: Run = run) -> tuple[Done, ...]:
    """Run them all, whatever becomes of the others."""
    results = []
    for command in commands:
        error = with_(command.argv)
        results.append(Done(command.argv, command.why, error if command.needed else ""))
    return tuple(results)
