# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installs a wheel in a guest, without pip there: the requirements are in the image already."""

from __future__ import annotations

import configparser
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab.errors import LabError
from bench.lab.fixups import APPLICATION_DIRECTORY

if TYPE_CHECKING:
    from bench.lab.reachable import Reachable

_REMOTE = "/tmp/hibprep-lab.whl"  # noqa: S108  # in the guest, where nobody else is
_COMMAND = """#!/usr/bin/python3
import sys

from {module} import {function}

sys.exit({function}())
"""


def install_wheel(guest: Reachable, wheel: Path) -> None:
    """Unpack the wheel where the guest's Python looks, and make its commands."""
    commands = console_scripts(wheel)
    guest.put(wheel, _REMOTE)
    guest.run(["rm", "-rf", APPLICATION_DIRECTORY], check=True)
    python = ["/usr/bin/python3", "-I"]
    guest.run([*python, "-m", "zipfile", "-e", _REMOTE, APPLICATION_DIRECTORY], check=True)
    # Or the first run of a command would spend its time compiling, and be measured.
    guest.run([*python, "-m", "compileall", "-q", APPLICATION_DIRECTORY], timeout=300, check=True)
    for name, text in commands.items():
        guest.put(text.encode(), f"/usr/local/bin/{name}", 0o755)
    guest.run(["rm", "-f", _REMOTE], check=True)


def console_scripts(wheel: Path) -> dict[str, str]:
    """The commands that the wheel declares, and a script for each."""
    with zipfile.ZipFile(wheel) as archive:
        names = [x for x in archive.namelist() if x.endswith(".dist-info/entry_points.txt")]
        declared = configparser.ConfigParser(delimiters=("=",))
        if names:
            declared.read_string(archive.read(names[0]).decode())
    if not declared.has_section("console_scripts"):
        raise LabError(f"{wheel.name} declares no command", "add [project.scripts]")
    scripts = {}
    for name, target in declared.items("console_scripts"):
        module, _, function = target.split("[", 1)[0].strip().partition(":")
        scripts[name] = _COMMAND.format(module=module, function=function)
    return scripts
