# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: completion for shells, as click makes it. A shell reads the file when hibprep is completed
for the first time, and then asks hibprep itself."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}
_LICENCE = "# SPDX-License-Identifier: LGPL-2.1-or-later"


def completions(cli: click.Command, name: str = "hibprep") -> dict[str, str]:
    """The file for each shell, by the shell's name."""
    variable = f"_{name.upper()}_COMPLETE"
    return {
        # not their own source(), where bash runs one to see its version
        shell: _with_licence(ShellComplete.source(kind(cli, {}, name, variable)))
        for shell, kind in _SHELLS.items()
    }


def _with_licence(script: str) -> str:
    lines = script.strip().splitlines()
    # zsh looks for `#compdef` in the first line alone
    place = 1 if lines[0].startswith("#compdef") else 0
    return "\n".join([*lines[:place], _LICENCE, *lines[place:]]) + "\n"
