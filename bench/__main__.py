# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench``: the lab and the benchmarks. Each is imported when it is asked for."""

from __future__ import annotations

import importlib

import click

# name -> (module, attribute, what `--help` says)
COMMANDS = {
    "lab": ("bench.lab.cli", "lab", "Debian guests under QEMU that really hibernate and resume."),
    "plan": ("bench.plan", "plan", "How quick `hibprep plan` is."),
    "hibernate": ("bench.experiment.cli", "hibernate", "The reference experiment, in guests."),
    "abort": ("bench.abort", "abort", "How soon a running `prepare` ends when it is told to."),
    "throughput": ("bench.throughput", "throughput", "How fast anonymous memory goes to swap."),
    "interference": ("bench.interference", "interference", "What it costs other programs."),
    "continuous": ("bench.continuous", "continuous", "What the policy costs a busy Redis."),
    "hook": ("bench.hook", "hook", "What the sleep hook costs with nothing to do."),
    "migrate": (
        "bench.migrate",
        "migrate",
        "What a guest that moves has to send, prepared or not.",
    ),
    "report": ("bench.report.publish", "report_command", "A page of results, with pictures."),
    "compare": ("bench.report.cli", "compare_command", "Two results files, with intervals."),
    "table": ("bench.report.cli", "table_command", "The reference's figures and ours."),
    "footprint": ("bench.footprint", "footprint", "What hibprep itself takes."),
}


class LazyGroup(click.Group):
    """One that cannot be imported (a missing extra) is no hindrance to the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise click.ClickException(f"{cmd_name}: {error}") from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, _, words) in COMMANDS.items()])


@click.group(cls=LazyGroup)
def main() -> None:
    """Guests that really hibernate, and measuring with and without them."""


if __name__ == "__main__":
    main(prog_name="python -m bench")
