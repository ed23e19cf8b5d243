# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the man pages. What a command takes is told by the command line itself and what a setting
means by the configuration file, so that neither page can fall behind; the rest is written by hand,
in resources/man/."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from hibprep import __version__
from hibprep.install import roff

_SECTION = re.compile(r"#?(\[\[?[a-z_]+\]\]?)")
_SETTING = re.compile(r"#([a-z_]+ = .*)")
# What every command takes is told once.
_EVERYWHERE = frozenset({"--config", "--root", "--version", "--help"})


def command_page(cli: click.Group, template: str) -> str:
    """hibprep(8): the hand-written page, with the commands where it says `@commands@`."""
    commands = "\n".join(_commands(cli))
    common = "\n".join(roff.entry(*option) for option in _options(cli, everywhere=True))
    page = template.replace("@commands@", commands).replace("@options@", common)
    return f"{roff.title('hibprep', 8, __version__)}\n{page}"


def configuration_page(configuration: str, template: str) -> str:
    """hibprep.toml(5): the same, with the settings of the configuration file at `@settings@`."""
    page = template.replace("@settings@", "\n".join(_settings(configuration)))
    return f"{roff.title('hibprep.toml', 5, __version__)}\n{page}"


# --- commands -----------------------------------------------------------------------------------


def _commands(group: click.Group, path: str = "hibprep") -> Iterator[str]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        own = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
            continue
        yield roff.subsection(" ".join([path, name, *_usage(command, own)]))
        for paragraph in (command.help or "").split("\n\n"):
            yield roff.paragraph(paragraph)
        for option in _options(command, everywhere=False):
            yield roff.entry(*option)


def _usage(command: click.Command, context: click.Context) -> list[str]:
    return [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]


def _options(command: click.Command, *, everywhere: bool) -> Iterator[tuple[list[str], str]]:
    """Tags and text of the options that every command takes, or of its own."""
    context = click.Context(command)
    for parameter in command.get_params(context):
        common = not _EVERYWHERE.isdisjoint(parameter.opts)
        if common is not everywhere or not isinstance(parameter, click.Option):
            continue
        record = parameter.get_help_record(context)
        if record is not None:
            yield [record[0]], record[1]


# --- settings -----------------------------------------------------------------------------------


def _settings(configuration: str) -> Iterator[str]:
    """A heading for each section, an entry for each group of settings with the words above it."""
    words: list[str] = []
    tags: list[str] = []
    inside = False
    for line in [*configuration.splitlines(), "[end]"]:
        section, setting = _SECTION.fullmatch(line), _SETTING.fullmatch(line)
        if tags and setting is None:
            yield roff.entry(tags, "\n".join(words))
            words, tags = [], []
        if section is not None and line != "[end]":
            yield roff.subsection(section[1])
            inside, words = True, []
        elif setting is not None:
            tags.append(setting[1])
        elif line.startswith("# ") and inside:
            words.append(line.removeprefix("# "))
