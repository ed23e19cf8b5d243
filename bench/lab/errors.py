# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong in the lab, each with a cure where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.lab.results import Result


class LabError(Exception):
    """Anything the lab cannot do. ``remedy`` says what would make it possible, if known."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message}\n  remedy: {remedy}")
        self.message = message
        self.remedy = remedy


class GuestTimeout(LabError):
    """A deadline passed; the message ends in the last lines of the serial console."""


class AgentError(LabError):
    """The agent answered that it could not do what was asked, or the connection ended."""


class CommandFailed(LabError):
    """A command run with ``check=True`` ended with another code than 0."""

    def __init__(self, argv: tuple[str, ...], result: Result) -> None:
        super().__init__(
            f"{' '.join(argv)}: return code {result.returncode}\n"
            f"stdout: {result.text.strip()[-2000:]}\nstderr: {result.error_text.strip()[-2000:]}"
        )
        self.argv = argv
        self.result = result


class HibernationRefused(CommandFailed):
    """The hibernating command said no before the machine was switched off."""


class HibernationFailed(LabError):
    """The request was accepted, and yet the guest is still running."""


class ResumeFailed(LabError):
    """The guest came up, but not as the one that was hibernated."""
