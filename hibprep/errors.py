# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that cross module borders, each with the exit code that the command line gives it.

An error's text is one line that names the place and, in `remedy`, the cure.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every `hibprep` command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PARTLY = 3
    IMPOSSIBLE = 4
    INTERRUPTED = 130


class HibprepError(Exception):
    """Base of all; an unexpected failure unless a subclass says otherwise."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class UsageError(HibprepError):
    """A wrong argument; nothing was changed."""

    exit_code = ExitCode.USAGE


class ConfigError(HibprepError):
    """A wrong configuration; nothing was changed."""

    exit_code = ExitCode.USAGE


class NotPossibleError(HibprepError):
    """This machine cannot do it; the remedy says what is missing."""

    exit_code = ExitCode.IMPOSSIBLE


class KernelFileError(HibprepError):
    """A kernel file could not be read or written."""

    def __init__(self, path: str, message: str, errno: int = 0, remedy: str = "") -> None:
        super().__init__(f"{path}: {message}", remedy)
        self.path = path
        self.errno = errno


class KernelFileMissing(KernelFileError):
    """It is not there: an older kernel, another configuration, or what it told of is gone."""

    exit_code = ExitCode.IMPOSSIBLE


class KernelFileDenied(KernelFileError):
    """Not allowed: not root, a read-only file system, or kernel lockdown."""

    exit_code = ExitCode.IMPOSSIBLE


class KernelFileMalformed(KernelFileError):
    """It is there and says something this version does not understand."""
