# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands on a notice: real ones."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.noticecommand import (
    LONGEST_LINE,
    MOST_LINES,
    PATH,
    CommandError,
    environment,
    plain,
    run,
)
from hibprep.notices import Notice, NoticeKind, ProviderName
from tests.descriptors import descriptors
from tests.listening import until_told
from tests.waiting import GENEROUS_SECONDS, until

NOTICE = Notice(
    kind=NoticeKind.STOP,
    source=ProviderName.AWS,
    id="stop-1",
    at=datetime(2026, 11, 22, 14, 4, tzinfo=UTC),
    text="this instance will be stopped",
)
VARIABLES = environment(NOTICE, 118.4)


def script(folder: Path, text: str) -> list[str]:
    path = folder / "on-notice"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path), "--argument with a blank", "$HOME"]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


def go(command: list[str], seconds: float = GENEROUS_SECONDS) -> None:
    before = descriptors()
    asyncio.run(run(command, VARIABLES, seconds))
    assert descriptors() == before


def gone(path: Path) -> Callable[[], bool]:
    """Whether the process whose number is in that file has ended."""

    def look() -> bool:
        pid = path.read_text().strip() if path.exists() else ""
        return bool(pid) and not _runs(int(pid))

    return look


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_it_is_told_and_nothing_else(tmp_path: Path) -> None:
    os.environ["HIBPREP_TEST_OTHER"] = "not for it"
    try:
        go(script(tmp_path, f'env > "{tmp_path}/env"; pwd > "{tmp_path}/pwd"'))
    finally:
        del os.environ["HIBPREP_TEST_OTHER"]
    found = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    found = {key: value for key, value in found.items() if key not in ("PWD", "OLDPWD", "_")}
    assert found == {
        "PATH": PATH,
        "HIBPREP_NOTICE_KIND": "stop",
        "HIBPREP_NOTICE_ID": "stop-1",
        "HIBPREP_NOTICE_SOURCE": "aws",
        "HIBPREP_NOTICE_DEADLINE": "2026-11-22T14:04:00Z",
        "HIBPREP_NOTICE_SECONDS": "118",
        "HIBPREP_NOTICE_TEXT": "this instance will be stopped",
    }
    assert (tmp_path / "pwd").read_text() == "/\n"


def test_what_is_not_known_is_empty() -> None:
    found = environment(Notice(kind=NoticeKind.FREEZE, source=ProviderName.AZURE, id="x"), None)
    assert found["HIBPREP_NOTICE_DEADLINE"] == found["HIBPREP_NOTICE_SECONDS"] == ""
    assert environment(NOTICE, -3.0)["HIBPREP_NOTICE_SECONDS"] == "0"


@given(st.text(), st.text())
def test_no_text_of_a_provider_breaks_the_environment(text: str, identity: str) -> None:
    notice = Notice(kind=NoticeKind.STOP, source=ProviderName.COMMAND, id=identity, text=text)
    for value in environment(notice, 1.0).values():
        assert value.isprintable() or not value
        value.encode()


def test_its_arguments_are_no_shells(tmp_path: Path) -> None:
    go(script(tmp_path, f'printf "%s\\n" "$@" > "{tmp_path}/arguments"'))
    assert (tmp_path / "arguments").read_text() == "--argument with a blank\n$HOME\n"


def test_what_it_says_is_in_the_log_line_by_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    go(script(tmp_path, 'echo one; echo two >&2; printf "\\033[31mred\\377 without an end"'))
    assert told(caplog) == [
        "on-notice: one",
        "on-notice: two",
        "on-notice:  [31mred\ufffd without an end",
    ]


def test_who_says_much_is_heard_a_while_and_never_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    go(script(tmp_path, "head -c 300000 /dev/zero | tr '\\0' x; seq 5000"))
    lines = told(caplog)
    assert len(lines) == MOST_LINES + 1
    assert lines[-1].endswith(" more lines")
    assert all(len(line) <= LONGEST_LINE + 20 for line in lines)


@pytest.mark.parametrize(
    ("text", "words"), [("exit 3", "on-notice ended with code 3"),
                        ("kill -9 $$", "on-notice was killed by signal 9")]
)  # fmt: skip
def test_an_end_that_is_no_good_one(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        go(script(tmp_path, text))


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nobody cannot be started: No such file"):
        go([str(tmp_path / "nobody")])


def test_a_time_out_ends_it_and_all_that_it_has_started(tmp_path: Path) -> None:
    text = f'sleep 600 & echo $! > "{tmp_path}/child"; trap "" TERM; wait; wait'
    with pytest.raises(CommandError, match=r"did not end within 0\.4 s, and was killed"):
        go(script(tmp_path, text), 0.4)
    until(gone(tmp_path / "child"), "its child is gone")


def test_it_is_asked_to_end_before_it_is_killed(tmp_path: Path) -> None:
    text = f'trap "echo asked > {tmp_path}/asked; exit 0" TERM; sleep 600 & wait'
    with pytest.raises(CommandError, match="did not end within"):
        go(script(tmp_path, text), 2.0)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_what_it_leaves_behind_ends_with_it_and_is_not_waited_for(tmp_path: Path) -> None:
    begin = time.monotonic()
    go(script(tmp_path, f'sleep 600 & echo $! > "{tmp_path}/child"'))
    assert time.monotonic() - begin < GENEROUS_SECONDS / 2  # the sleep holds its output open
    until(gone(tmp_path / "child"), "what it left is gone")


def test_whoever_does_not_want_it_any_more_kills_it(tmp_path: Path) -> None:
    command = script(tmp_path, f'echo $$ > "{tmp_path}/own"; sleep 600')

    async def test() -> None:
        task = asyncio.create_task(run(command, VARIABLES, 600))
        own = tmp_path / "own"
        await until_told(lambda: own.exists() and own.read_text().strip(), "it runs")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gone(tmp_path / "own")()

    asyncio.run(test())


def test_plain_is_one_line() -> None:
    assert plain("a\nb\x00c\x1b[0m\ud800", 100) == "a b c [0m "
    assert plain("abc", 2) == "ab"
