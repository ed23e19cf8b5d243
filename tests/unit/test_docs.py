# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents say is there: commands, options, make targets, files, headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bench.__main__ import main as bench_main
from hibprep.cli import COMMANDS, cli
from hibprep.errors import ExitCode

TOP = Path(__file__).parents[2]
DOCUMENTS = sorted([TOP / "README.md", TOP / "CHANGELOG.md", *(TOP / "docs").glob("*.md")])
NAMES = [path.relative_to(TOP).as_posix() for path in DOCUMENTS]

_FENCE = re.compile(r"^```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_PATH = re.compile(r"(?:hibprep|tests|bench|docs|hooks)/[\w./-]*")
_REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|docker\.io|ghcr\.io|quay\.io|npmjs|crates\.io|proxy\.golang",
)


def text_of(name: str) -> str:
    return (TOP / name).read_text()


def fenced_lines(text: str) -> list[str]:
    return [line for block in _FENCE.findall(text) for line in block.splitlines()]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The commands of that program in fenced blocks and code spans, without their comments."""
    spans = _SPAN.findall(_FENCE.sub("", text))
    for line in [*fenced_lines(text), *spans]:
        if line.startswith(f"{program} "):
            yield shlex.split(line.removeprefix(program), comments=True)


def is_synopsis(words: list[str]) -> bool:
    """Whether it stands for many commands: its options are checked, it cannot be parsed."""
    return any(re.search(r"[\[\]|…]|\b[A-Z]{3,}\b", word) for word in words)


def resolve(words: list[str], group: click.Group) -> tuple[click.Command, list[str]]:
    """The command that the words name, through sub-commands, and what is left of them."""
    context = click.Context(group)
    name, *rest = words
    command = group.get_command(context, name)
    assert command is not None, f"there is no command {name}"
    if isinstance(command, click.Group) and rest and not rest[0].startswith(("-", "[")):
        if "|" in rest[0]:
            assert set(rest[0].split("|")) == set(command.list_commands(context))
            return command, rest[1:]
        return resolve(rest, command)
    return command, rest


def options(command: click.Command) -> set[str]:
    known = {"--help"}
    for parameter in (*command.params, *cli.params):
        known.update(parameter.opts)
    return known


def check(words: list[str], group: click.Group) -> None:
    if words[0].startswith("--"):  # options that every command takes
        assert words[0] in options(cli)
        return
    command, rest = resolve(words, group)
    if is_synopsis(words):
        unknown = set(_OPTION.findall(" ".join(rest))) - options(command)
        assert not unknown, f"{' '.join(words)}: no option {unknown}"
        return
    if isinstance(command, click.Group) and not command.invoke_without_command:
        assert not rest
        return
    # parses the values too, and does not run
    required = any(parameter.required for parameter in command.params)
    if rest or not required:
        command.make_context(words[0], list(rest))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_can_be_typed(name: str) -> None:
    for words in commands(text_of(name), "hibprep"):
        check(words, cli)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_typed(name: str) -> None:
    for words in commands(text_of(name), "python -m bench"):
        check(words, bench_main)


def test_commands_are_found_at_all() -> None:
    found = list(commands(text_of("README.md"), "hibprep"))
    assert ["prepare", "--within", "10"] in found
    assert {words[0] for words in found} == set(COMMANDS)


@pytest.mark.parametrize(
    "words", [["prepare", "--wihtin", "10"], ["reclaim", "12X"], ["plan", "--stages", "x"], ["go"]]
)
def test_a_wrong_command_would_be_noticed(words: list[str]) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check(words, cli)


def test_every_command_is_in_the_reference() -> None:
    text = text_of("docs/command-line.md")
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert f"**{name}**" in text
        for option in options(command) - {"--help", "-h"}:
            assert option in text, f"{name} {option}"


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_is_there(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    text = text_of(name)
    spans = _SPAN.findall(_FENCE.sub("", text))
    named = {
        match[1]
        for line in [*fenced_lines(text), *spans]
        if (match := re.match(r"make ([a-z]+)\b", line))
    }
    assert named <= targets


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in _LINK.findall(_FENCE.sub("", text_of(name))):
        assert not link.startswith("/")
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (TOP / name).parent / path if path else TOP / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_the_project_that_is_named_is_there(name: str) -> None:
    for span in _SPAN.findall(_FENCE.sub("", text_of(name))):
        if _PATH.fullmatch(span):
            assert (TOP / span).exists(), span


@pytest.mark.parametrize("name", NAMES)
def test_no_registry_is_named(name: str) -> None:
    assert not _REGISTRIES.findall(text_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_licence_is_on_top(name: str) -> None:
    assert text_of(name).startswith("<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->\n")


@pytest.mark.parametrize("name", ["README.md", "docs/command-line.md"])
def test_the_exit_codes_are_all_there(name: str) -> None:
    rows = re.findall(r"^\| (\d+) \|", text_of(name), re.MULTILINE)
    assert [int(code) for code in rows] == sorted(int(code) for code in ExitCode)


def test_every_module_has_its_place_in_the_architecture() -> None:
    text = text_of("docs/architecture.md")
    for path in (TOP / "hibprep").rglob("*.py"):
        place = path.relative_to(TOP)
        if path.name == "__init__.py" or place.parts[1] == "cli":
            continue
        words = {place.as_posix(), path.stem}
        row = next(
            (line for line in text.splitlines() if f"`{'/'.join(place.parts[:2])}" in line), ""
        )
        assert any(word in row for word in words), f"{place} is not in the table of the layout"
