# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking the source of a guest that comes in: which command, for how long, and what comes of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hibprep import incoming as module
from hibprep.errors import NotPossibleError
from hibprep.events import GuestEvent, GuestOperation
from hibprep.incoming import Incoming, command_for, source_of
from hibprep.settings_incoming import IncomingSettings
from tests.processes import ended
from tests.waiting import GENEROUS_SECONDS, until

UUID = "6f0c2a8e-6d0c-4c6a-9f1e-0b5a4f1d2c3b"
MIGRATE = GuestEvent(operation=GuestOperation.MIGRATE, name="web-1", uuid=UUID)


def named(name: str, source: str = "") -> GuestEvent:
    return GuestEvent(operation=GuestOperation.MIGRATE, name=name, uuid=UUID, source=source)


def wanted(*command: str, **fields: object) -> IncomingSettings:
    return IncomingSettings.model_validate({"command": command} | fields)


def python(code: str, **fields: object) -> IncomingSettings:
    return wanted(sys.executable, "-c", code, **fields)


@pytest.mark.parametrize(
    ("event", "rules", "host"),
    [
        (MIGRATE, [], ""),
        (MIGRATE, ["db-*=a", "web-?=b", "*=c"], "b"),
        (MIGRATE, [f"{UUID}=a", "*=c"], "a"),
        (named("db-7"), ["db-*=a", "*=c"], "a"),
        (named("Web-1"), ["web-*=a"], ""),
        (named("a=b"), ["a=c"], ""),
        (named("x", "d"), ["*=c"], "d"),
        (named("x"), ["*=fe80::1"], "fe80::1"),
    ],
)
def test_where_a_guest_comes_from(event: GuestEvent, rules: list[str], host: str) -> None:
    assert source_of(event, rules) == host


def test_the_command() -> None:
    settings = wanted("ssh", "root@{source}", "guest", "{uuid}", "{name}:{uuid}", sources=["*=a"])
    assert command_for(MIGRATE, settings) == (
        "ssh", "root@a", "guest", UUID, f"web-1:{UUID}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "event", "words"),
    [
        ("{source}", MIGRATE, "incoming.sources"),
        ("{name}", named("a; rm -rf /"), "use {uuid}"),
        ("{name}", named("-oProxyCommand=x"), "use {uuid}"),
        ("{uuid}", GuestEvent(operation=GuestOperation.MIGRATE, name="a"), "did not tell"),
    ],
)
def test_what_is_not_known_is_said(argument: str, event: GuestEvent, words: str) -> None:
    with pytest.raises(NotPossibleError, match="is not known") as caught:
        command_for(event, wanted("x", argument))
    assert words in caught.value.remedy


@given(st.text(max_size=40))
def test_no_name_is_more_than_a_word_to_a_shell(name: str) -> None:
    try:
        _, argument = command_for(named(name), wanted("x", "{name}"))
    except NotPossibleError:
        return
    assert argument == name
    assert not set(name) & set(" \t\n;&|<>()$`\\\"'*?[]{}#~!")
    assert not name.startswith("-")


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ["ssh", "{host}"]},
        {"command": [""]},
        {"command": "ssh"},
        {"sources": ["a"]},
        {"sources": ["=a"]},
        {"sources": ["a=-oX"]},
        {"sources": ["a=b c"]},
        {"refuse": True},
        {"seconds": 0},
        {"seconds": 301},
    ],
)
def test_settings_that_are_none(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IncomingSettings.model_validate(fields)


def test_only_a_migration_waits_and_only_when_that_is_wanted() -> None:
    incoming = Incoming()
    for operation in GuestOperation:
        event = GuestEvent(operation=operation, name="a")
        assert incoming.seconds(event, IncomingSettings()) == 0
        waits = incoming.seconds(event, wanted("true", seconds=10))
        assert (waits > 10) == (operation is GuestOperation.MIGRATE)


def ask(event: GuestEvent, settings: IncomingSettings) -> str:
    return asyncio.run(Incoming().ask(event, settings))


def test_it_is_run_as_it_is_configured(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'said')!r}, 'w').write(repr(sys.argv[1:]))"
    settings = wanted(sys.executable, "-c", code, "{uuid}", "a b; c", refuse=True)
    assert ask(MIGRATE, settings) == ""
    assert (tmp_path / "said").read_text() == repr([UUID, "a b; c"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (python("import sys; sys.exit(255)"), "ended with exit code 255"),
        (wanted("/nowhere/ssh"), "No such file"),
        (wanted("ssh", "{source}"), "incoming.sources"),
        (python("import time; time.sleep(600)", seconds=0.05), "did not end within 0.05 s"),
    ],
)
def test_what_fails_is_told_and_refuses_only_if_that_is_wanted(
    settings: IncomingSettings, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(MIGRATE, settings) == ""
    assert words in caplog.text
    refusal = ask(MIGRATE, settings.model_copy(update={"refuse": True}))
    assert refusal.startswith("web-1 could not be prepared on its source: ")
    assert words in refusal


def test_partly_prepared_is_prepared() -> None:
    assert ask(MIGRATE, python("import sys; sys.exit(3)", refuse=True)) == ""


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )

    async def test() -> None:
        asking = asyncio.create_task(Incoming().ask(MIGRATE, python(code, seconds=300)))
        await asyncio.to_thread(until, lambda: note.exists() and note.read_text(), "it has a child")
        asking.cancel()
        await asyncio.wait((asking,))

    asyncio.run(test())
    until(lambda: ended(int(note.read_text())), "the child is gone")


def test_only_a_few_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 1)
    settings = python("import sys; sys.stdin.read()", refuse=True, seconds=GENEROUS_SECONDS)

    async def test() -> None:
        incoming = Incoming()
        slow = python("import time; time.sleep(600)", seconds=300)
        first = asyncio.create_task(incoming.ask(MIGRATE, slow))
        await asyncio.sleep(0)
        assert "asked already" in await incoming.ask(MIGRATE, settings)
        first.cancel()
        await asyncio.wait((first,))
        assert await incoming.ask(MIGRATE, settings) == ""

    asyncio.run(test())
