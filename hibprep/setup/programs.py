# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running other people's programs: argument lists, a deadline, no input, what they said when they
fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from hibprep.errors import HibprepError, NotPossibleError
from hibprep.kernel.root import KernelRoot

DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_SAID_LINES = 3
_SAID_CHARACTERS = 400
_KILLED_SECONDS = 10.0


def find(root: KernelRoot, name: str) -> str:
    """Where a program is, without the root; "" when it is not installed."""
    return next((f"{place}/{name}" for place in DIRECTORIES if root.exists(f"{place}/{name}")), "")


def run(program: tuple[str, ...], seconds: float) -> None:
    """Run it to its end. HibprepError when it fails or takes longer than `seconds`; then it, and
    all that it started, is killed."""
    environment = {
        **os.environ,
        "PATH": ":".join(DIRECTORIES),
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    try:
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise NotPossibleError(f"{program[0]}: {error.strerror}", "install it") from error
    with process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            _kill(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise HibprepError(
                    f"{' '.join(program)}: took longer than {seconds:.0f} s and was ended"
                ) from None
            raise
    if process.returncode != 0:
        raise HibprepError(
            f"{' '.join(program)}: exit code {process.returncode}: {_last_words(said)}"
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_KILLED_SECONDS)


def _last_words(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    text = "; ".join(lines[-_SAID_LINES:]) or "it said nothing"
    return "".join(each for each in text if each.isprintable())[-_SAID_CHARACTERS:]
