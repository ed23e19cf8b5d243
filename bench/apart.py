# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running a program with folders of ours in the place of some of the machine's.

The mounts are in a mount namespace of that program, so that nobody else sees them and they are gone
when it ends, however it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

STATE = "/var/lib/hibprep"
RUN_TIME = "/run/hibprep"

# Paths are arguments: none of them is the shell's to interpret. Everything is executed in the place
# of what came before, so that the process that was started is the program.
_SCRIPT = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'


def apart(places: Mapping[str, Path], argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` with each folder in its place; takes root. What is missing is
    made: the folders, and the places, which stay."""
    pairs = []
    for place, folder in places.items():
        for each in (Path(place), folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        pairs += [str(folder), place]
    return [
        *("unshare", "--mount", "--propagation", "private"),
        *("sh", "-c", _SCRIPT, "sh", *pairs, "--", *argv),
    ]
