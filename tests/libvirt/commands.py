# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest …` as somebody types it: a process of its own, with `--json`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.lab.paths import REPOSITORY
from bench.lab.rig_host import RigHost
from hibprep.errors import ExitCode

COMMAND_SECONDS = 300.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its report, {} for none, and the lines on stderr."""

    code: ExitCode
    report: dict[str, Any]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"exit code {self.code}", *self.lines, json.dumps(self.report)))


class GuestCommand:
    """One that has begun. This machine's configuration is left out."""

    def __init__(self, host: RigHost, *words: str) -> None:
        """``host``: which libvirt it is to work with."""
        argv = [sys.executable, "-m", "hibprep", "guest", *words]
        argv += ["--connect", host.uri, "--json", "--config", os.devnull]
        with ExitStack() as stack:
            # files, for a pipe that nobody reads yet would hold it up when it is full
            self._output = stack.enter_context(tempfile.TemporaryFile())
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._errors,
                cwd=REPOSITORY,
            )
            self._files = stack.pop_all()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def end(self, seconds: float = COMMAND_SECONDS) -> Ended:
        """Wait for its end; one that does not come in time is an error."""
        with self._files:
            try:
                code = self._process.wait(seconds)
            finally:
                if self.running:
                    self._process.kill()
                    self._process.wait()
            self._output.seek(0)
            self._errors.seek(0)
            output, errors = self._output.read(), self._errors.read().decode()
        report = json.loads(output) if output else {}
        return Ended(ExitCode(code), report, tuple(errors.splitlines()))


def guest_command(host: RigHost, *words: str) -> Ended:
    """One to its end."""
    return GuestCommand(host, *words).end()
