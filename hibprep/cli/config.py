# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep config`: check or show the configuration, or its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import click

from hibprep.cli import common
from hibprep.config import Config, schema
from hibprep.errors import ExitCode


@click.group("config", no_args_is_help=False)
@common.common_options
def command() -> None:
    """Check or show the configuration, or its schema."""


@command.command("check")
@common.common_options
@click.pass_context
def check(ctx: click.Context) -> int:
    """Say everything that is wrong with the configuration, one line each; exit code 2 if any."""
    common.load_config(ctx)
    files = common.files_read(ctx)
    click.echo("no error in " + ", ".join(files) if files else "no file; the defaults are used")
    return ExitCode.DONE


@command.command("show")
@common.json_option
@common.common_options
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> int:
    """Show every setting as it is in force."""
    config = common.load_config(ctx)
    if as_json:
        click.echo(json.dumps(config.model_dump(mode="json", by_alias=True), indent=2))
    else:
        click.echo("\n".join(toml_lines(config)))
    return ExitCode.DONE


@command.command("schema")
@common.common_options
def print_schema() -> int:
    """Print the JSON schema of the configuration file."""
    click.echo(json.dumps(schema(), indent=2, ensure_ascii=False))
    return ExitCode.DONE


def toml_lines(config: Config) -> Iterator[str]:
    """The settings as TOML; what has no value is shown as a comment, as TOML has no word for it."""
    for section, settings in config.model_dump(mode="json", by_alias=True).items():
        if isinstance(settings, list):
            for table in settings:
                yield from _table(f"[[{section}]]", table)
            if not settings:
                yield f"# no [[{section}]]: the defaults"
        else:
            yield from _table(f"[{section}]", settings)


def _table(heading: str, settings: Mapping[str, object]) -> Iterator[str]:
    yield heading
    for key, value in settings.items():
        # text, numbers and lists of text are written alike in JSON and in TOML
        yield f"# {key} is not set" if value is None else f"{key} = {json.dumps(value)}"
    yield ""
