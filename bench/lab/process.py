# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting programs so that they end with us, and running them with a log and a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from bench.lab.errors import LabError

_ENTER = Path(__file__).with_name("enter.py")

# The kernel's parent-death signal fires when the *thread* that forked ends. One thread that lives
# as long as the interpreter does all the forking, so that a guest may be started from any thread.
_FORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lab-forker")


def launch(
    argv: Sequence[str],
    *,
    output: IO[bytes],
    root: Path | None = None,
    binds: Sequence[Path] = (),
    pass_fds: Sequence[int] = (),
    death_signal: signal.Signals = signal.SIGKILL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start argv (in ``root``, with ``binds`` at the same paths); it dies when we die."""
    command = [sys.executable, "-I", "-S", str(_ENTER), f"--parent={os.getpid()}"]
    command.append(f"--death-signal={int(death_signal)}")
    if root is not None:
        command.append(f"--root={root}")
        command += [f"--bind={path}" for path in binds]
    command += ["--", *argv]

    def fork() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )

    return _FORKER.submit(fork).result()


def end(process: subprocess.Popen[bytes], grace_seconds: float = 5.0) -> None:
    """End the program by its id: politely if there is grace, then for good."""
    if process.poll() is None and grace_seconds > 0:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    if process.poll() is None:
        process.kill()
    process.wait(30)


def run_logged(
    argv: Sequence[str],
    log: Path,
    *,
    timeout: float,
    root: Path | None = None,
    binds: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    remedy: str | None = None,
) -> None:
    """Run argv to its end, its output added to ``log``; LabError with its tail if not 0."""
    started = time.monotonic()
    with log.open("ab") as output:
        output.write(f"+ {' '.join(argv)}\n".encode())
        output.flush()
        process = launch(
            argv,
            output=output,
            root=root,
            binds=binds,
            death_signal=signal.SIGTERM,
            environment=environment,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"{argv[0]} did not end within {timeout:.0f} s\n{tail(log)}", remedy
            ) from None
        finally:
            end(process)
    if code != 0:
        spent = time.monotonic() - started
        raise LabError(f"{argv[0]} ended with {code} after {spent:.0f} s\n{tail(log)}", remedy)


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a text file, under its name, for error messages."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 16384))
            text = stream.read().decode(errors="replace")
    except OSError as error:
        return f"({path}: {error.strerror})"
    return "\n".join([f"last lines of {path}:", *(f"  {x}" for x in text.splitlines()[-lines:])])
