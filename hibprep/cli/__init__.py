# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: `hibprep COMMAND`.

Only click is imported here; a command's module, and with it everything that it needs, is imported
when that command runs. Everything that goes wrong in an expected way becomes one line on stderr and
one of the exit codes of `hibprep.errors`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from hibprep.cli.common import common_options
from hibprep.errors import ExitCode, HibprepError

# the short help is said here too, so that `hibprep --help` need not import them all
COMMANDS = {
    "plan": "Say what would be done and what it would gain.",
    "prepare": "Make the machine ready for hibernation now.",
    "hibernate": "Prepare, hibernate, and report after resume.",
    "reclaim": "Reclaim an amount of memory.",
    "swapin": "Bring back from swap what was in use.",
    "check": "Say whether hibernation will fit and work, and what to change.",
    "setup": "Make what hibernation needs: a swap file.",
    "cold": "Say how long memory has been idle, by cgroup.",
    "backends": "Say what this kernel offers, and why not.",
    "coldpgs": "Show or set kidled and coldpgs, on kernels that have them.",
    "run": "Run the daemon.",
    "status": "Say what the daemon does and why, and what the last run did.",
    "history": "Show past runs.",
    "notices": "Show what the cloud announces, and what is done about it.",
    "config": "Check or show the configuration, or its schema.",
    "damon": "Show, set or put off DAMON_RECLAIM.",
    "guest": "Prepare guests of libvirt for a migration or a save, and put them back.",
    "install": "Put the unit, the hooks and all else into the system's places.",
    "uninstall": "Take away what `install` has put.",
}


# a module `run` would take the place of the function `run` below
_MODULES = {"run": "daemon", "sleep-hook": "sleep_hook", "host-shutdown": "host_shutdown"}
_HIDDEN = frozenset({"sleep-hook", "host-shutdown"})  # for what systemd runs


class LazyGroup(click.Group):
    """A group whose commands are imported when they are wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order in which they are needed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        if cmd_name not in COMMANDS and cmd_name not in _HIDDEN:
            return None
        module = _MODULES.get(cmd_name, cmd_name)
        command: click.Command = importlib.import_module(f"hibprep.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,  # a missing command is a mistake like any other: one line
    context_settings={"help_option_names": ["-h", "--help"]},
)
@common_options
def cli() -> None:
    """Get this machine ready for hibernation before it is asked.

    Exit codes: 0 done, 1 unexpected failure, 2 usage or configuration, 3 partly done (the report
    says why), 4 not possible here, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        result = cli.main(args=arguments, prog_name="hibprep", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "hibprep"
        return _fail(
            f"{_uncapitalised(error.format_message())}: see {where} --help", ExitCode.USAGE
        )
    except click.ClickException as error:
        return _fail(_uncapitalised(error.format_message()), ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except HibprepError as error:
        lines: tuple[str, ...] = getattr(error, "lines", (str(error),))
        for line in lines[:-1]:
            _fail(line, error.exit_code)
        return _fail(lines[-1], error.exit_code)
    except BrokenPipeError:
        # whoever read our output has seen enough; Python would complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.FAILED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", ExitCode.FAILED)
    return result if isinstance(result, int) else ExitCode.DONE


def main() -> NoReturn:
    """The entry point of the `hibprep` script."""
    sys.exit(int(run()))


def _fail(message: str, code: ExitCode) -> int:
    click.echo(f"hibprep: {' '.join(message.split())}", err=True)
    return code


def _uncapitalised(message: str) -> str:
    text = message.rstrip(".")
    return text[:1].lower() + text[1:]
