# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hibprep that units and hooks are to run, and their texts with its paths in them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from hibprep.errors import NotPossibleError, UsageError
from hibprep.kernel.root import KernelRoot

# What the files say before they are installed, which is true of the Debian package.
PROGRAM = "/usr/bin/hibprep"
LIBRARY = "/usr/lib/python3/dist-packages/hibprep"
INTERPRETER = "/usr/bin/python3"

_PLACES = (PROGRAM, "/usr/local/bin/hibprep")
# Neither systemd's nor Python's quoting is needed for these, nor is there anything to expand.
_PLAIN = re.compile(r"/[\w@+=:,./-]+", re.ASCII)
# What ProtectHome= and PrivateTmp= of the unit hide from it.
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108 - not written to
_SHEBANG_BYTES = 256
_ELSEWHERE = (
    "install hibprep where a service can see it, such as a virtual environment in /opt, or name "
    "another with --program"
)


@dataclass(frozen=True, slots=True)
class Program:
    """One installed hibprep: its command, the Python that runs it, the folder of its package."""

    path: str = PROGRAM
    interpreter: str = INTERPRETER
    library: str = LIBRARY

    def adapt(self, text: str) -> str:
        """A unit or a hook with the paths of this program."""
        for before, after in ((LIBRARY, self.library), (PROGRAM, self.path)):
            text = text.replace(before, after)
        shebang = f"#!{INTERPRETER}"
        if text.startswith((f"{shebang}\n", f"{shebang} ")):
            text = f"#!{self.interpreter}{text.removeprefix(shebang)}"
        return text


def find_program(
    root: KernelRoot, given: str | None, *, called: str, interpreter: str, library: str
) -> Program:
    """The program that is to be run below `root`: the one given, else the one that is running.

    `called` is how it was started, `interpreter` and `library` are the running Python and package.
    UsageError when the one given is not there, NotPossibleError when a service could not run it.
    """
    if not root.is_real:
        path = given or next(filter(root.exists, _PLACES), PROGRAM)
        _must_be_plain(path)
        return Program(path, _interpreter_of(root.path(path), INTERPRETER), LIBRARY)
    if given is not None and not Path(given).is_file():
        raise UsageError(f"there is no program {given}", "give the path of hibprep itself")
    path = given or _running(called, interpreter)
    found = Program(path, _interpreter_of(Path(path), interpreter), library)
    for what in (found.path, found.interpreter, found.library):
        _must_be_plain(what)
        _must_be_visible(what)
    return found


def _running(called: str, interpreter: str) -> str:
    candidates = [Path(interpreter).parent / "hibprep"]
    if Path(called).name == "hibprep":
        candidates.insert(0, Path(called).absolute())
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    found = shutil.which("hibprep")
    if found is None:
        raise NotPossibleError("there is no program hibprep for the units to run", _ELSEWHERE)
    return found


def _interpreter_of(script: Path, otherwise: str) -> str:
    """The Python that runs a script; a long path makes pip write a shell's line there instead."""
    try:
        with script.open("rb") as stream:
            line = stream.read(_SHEBANG_BYTES).split(b"\n", 1)[0].decode(errors="replace")
    except OSError:
        return otherwise
    words = line.removeprefix("#!").split()
    if line.startswith("#!/") and "python" in Path(words[0]).name:
        return words[0]
    return otherwise


def _must_be_plain(path: str) -> None:
    if _PLAIN.fullmatch(path) is None:
        raise UsageError(
            f"{path!r} cannot stand in a unit", "it has to be an absolute path of plain characters"
        )


def _must_be_visible(path: str) -> None:
    # also where a link leads: an environment in /opt may stand on a Python in /root
    for place in (path, str(Path(path).resolve())):
        if place.startswith(_HIDDEN):
            raise NotPossibleError(f"{place} is hidden from services", _ELSEWHERE)
