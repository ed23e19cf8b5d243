# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices from a program of the administrator's: what it prints, and how it is run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.settings_notices import NoticesSettings
from hibprep.signals.cloud import command as module
from hibprep.signals.cloud import program as program_module
from hibprep.signals.cloud.base import AnswerError, Look, NoAnswerError, NotHereError, Watch
from hibprep.signals.cloud.command import SAME_SECONDS, Command, steady
from hibprep.signals.cloud.commandforms import MOST_NOTICES, notices_of
from hibprep.signals.cloud.program import MOST_BYTES, Program
from tests.cloud.whatever import altered, read, texts
from tests.fakes.clock import START, HandClock
from tests.processes import ended
from tests.waiting import GENEROUS_SECONDS, until

SECRET = "s3cr3t-of-the-program"  # noqa: S105 - what must not be seen
DOCUMENT = Path(__file__).parents[2] / "docs" / "cloud-command.md"
ENTRY = {"kind": "stop", "id": "1", "at": "2026-03-01T12:02:00Z", "begun": False, "text": "x"}


def lines(*entries: Mapping[str, object]) -> str:
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)


def notice(**fields: object) -> Notice:
    (made,) = notices_of(lines({"kind": "stop", "id": "1"} | fields), START)
    return made


def python(code: str, *arguments: str, seconds: float = GENEROUS_SECONDS) -> Program:
    return Program((sys.executable, "-c", code, *arguments), timeout_seconds=seconds)


def watch(*argv: str, clock: HandClock | None = None) -> Watch:
    (only,) = Command(argv, 10.0, GENEROUS_SECONDS, clock).watches()
    return only


# --- what is printed ------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", "\n \n", "[]", " [ ] "])
def test_nothing_is_announced(nothing: str) -> None:
    assert notices_of(nothing, START) == ()


@pytest.mark.parametrize("kind", list(NoticeKind))
def test_every_kind(kind: NoticeKind) -> None:
    assert notice(kind=kind.value) == Notice(kind=kind, source=ProviderName.COMMAND, id="1")


def test_all_fields() -> None:
    assert notice(at="2026-03-01T20:02:00+08:00", begun=True, text="a\n b\x1b[1m") == Notice(
        kind=NoticeKind.STOP,
        source=ProviderName.COMMAND,
        id="1",
        at=datetime(2026, 3, 1, 12, 2, tzinfo=UTC),
        begun=True,
        text="a b [1m",
    )


def test_lines_and_an_array_are_the_same() -> None:
    entries: list[dict[str, object]] = [ENTRY, {"kind": "freeze", "id": "2", "in_seconds": 5}]
    by_lines = notices_of(lines(*entries), START)
    assert len(by_lines) == 2
    assert notices_of(json.dumps(entries, indent=2), START) == by_lines
    assert notices_of("\r\n".join(map(json.dumps, entries)), START) == by_lines


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ("2026-03-01T12:02:00Z", START + timedelta(minutes=2)),
        ("2026-03-01 12:02:00+00:00", START + timedelta(minutes=2)),
        ("2026-03-01T08:32:00-0330", START + timedelta(minutes=2)),
        ("2026-03-01T12:02:00.5Z", START + timedelta(minutes=2, seconds=0.5)),
        ("2026-03-01T12:02:00,123456789Z", START + timedelta(minutes=2, microseconds=123456)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_times(written: str, at: datetime) -> None:
    assert notice(at=written).at == at


@pytest.mark.parametrize("seconds", [0, 120, 1.5, -30, 31_000_000])
def test_seconds_count_from_the_start_of_the_program(seconds: float) -> None:
    assert notice(in_seconds=seconds).at == START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "explode"}, "`kind` is none of hibernate, stop"),
        ({"kind": None}, "`kind`"),
        ({"kind": ["stop"]}, "`kind`"),
        ({"id": ""}, "`id`"),
        ({"id": 7}, "`id`"),
        ({"id": "a b"}, "`id`"),
        ({"id": "ä"}, "`id`"),
        ({"id": "x" * 129}, "`id`"),
        ({"at": "2026-03-01T12:02:00"}, "with a zone"),
        ({"at": "12:02"}, "with a zone"),
        ({"at": 1772366520}, "with a zone"),
        ({"at": "2026-03-01T12:02:00Z\n"}, "with a zone"),
        ({"at": "2026-02-30T12:02:00Z"}, "that there is not"),
        ({"at": "2026-03-01T12:02:00+99:00"}, "that there is not"),
        ({"at": "0001-01-01T00:00:00+08:00"}, "that there is not"),
        ({"in_seconds": "120"}, "`in_seconds` is no number"),
        ({"in_seconds": True}, "`in_seconds` is no number"),
        ({"in_seconds": 1e999}, "JSON"),
        ({"in_seconds": 40_000_000}, "more than a year"),
        ({"in_seconds": 5, "at": "2026-03-01T12:02:00Z"}, "both"),
        ({"begun": "yes"}, "`begun`"),
        ({"begun": 1}, "`begun`"),
        ({"text": 7}, "`text`"),
        ({"deadline": 5}, "at, begun, id, in_seconds, kind, text"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(fields: dict[str, object], words: str) -> None:
    text = lines({"kind": "stop", "id": "0"}, {"kind": "stop", "id": "1"} | fields)
    with pytest.raises(AnswerError) as caught:
        notices_of(text, START)
    assert words in str(caught.value)
    if words != "JSON":
        assert str(caught.value).startswith("notice 2: ")


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "{}",
        "7",
        '"stop"',
        "[7]",
        "[[]]",
        '[{"kind": "stop", "id": "1"}',
        '{"kind": "stop", "id": "1"} {"kind": "stop", "id": "2"}',
        '{"kind": "stop",\n "id": "1"}',
        '{"kind": "stop", "id": "1", "in_seconds": 1e999}',
        '{"kind": "stop", "id": "1", "in_seconds": NaN}',
        '{"kind": "stop", "id": "1", "in_seconds": ' + "9" * 5000 + "}",
        "[" * 60_000,
        "\ufeff[]",
        lines(*({"kind": "stop", "id": str(n)} for n in range(MOST_NOTICES + 1))),
        lines({"kind": "stop", "id": "1"}, {"kind": "reboot", "id": "1"}),
        "<!DOCTYPE html><html></html>",
    ],
)
def test_what_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(AnswerError):
        notices_of(text, START)


WORDS = (*ENTRY, "in_seconds", *NoticeKind, "")


@given(texts(*WORDS))
def test_any_text_at_all(text: str) -> None:
    read(lambda printed: notices_of(printed, START), text)


@given(altered(ENTRY, *WORDS), st.sampled_from(("{}", "[{}]")))
def test_any_fields_at_all(text: str, form: str) -> None:
    printed = form.replace("{}", text)
    for made in read(lambda it: notices_of(it, START), printed) or ():
        entry = json.loads(text)
        assert (made.kind, made.id) == (entry["kind"], entry["id"])
        assert made.at is None or made.at.utcoffset() == timedelta(0)
        assert made.id.isprintable()
        assert " " not in made.id
        assert made.text.isprintable()


# --- from run to run ------------------------------------------------------------------------------


def test_what_is_printed_no_more_is_withdrawn(tmp_path: Path) -> None:
    file = tmp_path / "planned.json"
    place = watch("cat", str(file))
    with pytest.raises(NoAnswerError, match="cat ended with exit code 1"):
        place.look()
    file.write_text(lines({"kind": "migrate", "id": "a"}, {"kind": "rebalance", "id": "b"}))
    look = place.look()
    assert [each.id for each in look.notices] == ["a", "b"]
    assert look.words == "exit code 0: migrate, rebalance"
    assert look.now is None
    file.write_text(lines({"kind": "rebalance", "id": "b"}))
    assert [each.id for each in place.look().notices] == ["b"]
    file.write_text("")
    assert place.look() == Look(words="exit code 0: nothing is announced")


def test_seconds_that_become_less_are_one_time(tmp_path: Path) -> None:
    clock, file = HandClock(), tmp_path / "planned.json"
    place = watch("cat", str(file), clock=clock)
    times = []
    for left in (120, 109, 101, 90, 80):  # the real time left is 120, 110, 100, 90, 80
        file.write_text(lines({"kind": "stop", "id": "a", "in_seconds": left}))
        (made,) = place.look().notices
        times.append(made.at)
        clock.go_on(10)
    assert set(times) == {START + timedelta(seconds=120)}
    file.write_text(lines({"kind": "stop", "id": "a", "in_seconds": 60}))
    (made,) = place.look().notices
    assert made.at == START + timedelta(seconds=110)


@given(st.lists(st.floats(-SAME_SECONDS, SAME_SECONDS), max_size=10))
def test_times_do_not_drift(offs: list[float]) -> None:
    first = datetime(2026, 3, 1, 12, 2, tzinfo=UTC)
    before: tuple[Notice, ...] = (notice(at=first.isoformat()),)
    for off in offs:
        now = notice(at=(first + timedelta(seconds=off)).isoformat(), text="again")
        before = steady((now,), before)
        assert before[0].at == first
        assert before[0].text == "again"


def test_another_time_is_another_time() -> None:
    first = notice(at="2026-03-01T12:02:00Z")
    for fields in ({"at": "2026-03-01T12:02:03Z"}, {}, {"id": "2", "at": "2026-03-01T12:02:01Z"}):
        other = notice(**fields)
        assert steady((other,), (first,)) == (other,)
    assert steady((first,), (notice(),)) == (first,)


def test_who_it_is() -> None:
    provider = Command(("/opt/planned", "--token", SECRET), 10.0, 5.0)
    (place,) = provider.watches()
    assert provider.name is ProviderName.COMMAND
    assert (place.name, place.pause_seconds) == ("/opt/planned", 10.0)
    with pytest.raises(NotHereError, match="no acknowledgement"):
        provider.acknowledge(notice())
    with pytest.raises(ValueError, match="program"):
        Command((), 10.0, 5.0)
    with pytest.raises(NoAnswerError) as caught:
        place.look()  # there is no such program
    assert SECRET not in f"{caught.value!s} {caught.value!r} {provider!r} {place!r}"


# --- how it is run --------------------------------------------------------------------------------


def test_no_shell_and_nothing_but_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PATH", str(tmp_path))
    code = (
        "import os, sys; names = set(os.environ) - {'LC_CTYPE'};"  # Python itself sets that one
        "print(sorted(names), os.environ['PATH'], os.getcwd(), os.getsid(0) == os.getpid(),"
        " sys.stdin.read(), sys.argv[1])"
    )
    said = python(code, "$HOME; echo *").output().decode()
    assert said == (
        "['PATH'] /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin / True  "
        "$HOME; echo *\n"
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/no/such/program",), "/no/such/program cannot be run: No such file or directory"),
        (("/etc/passwd",), "/etc/passwd cannot be run: Permission denied"),
        (("sh", "-c", f"echo {SECRET}; exit 7"), "sh ended with exit code 7"),
        (
            ("sh", "-c", f"echo {SECRET}; kill -TERM $$"),
            f"sh was ended by signal {signal.SIGTERM:d}",
        ),
    ],
)
def test_failures_are_told_by_their_code(argv: tuple[str, ...], words: str) -> None:
    with pytest.raises(NoAnswerError) as caught:
        Program(argv, timeout_seconds=GENEROUS_SECONDS).output()
    assert str(caught.value).startswith(words)
    assert SECRET not in f"{caught.value!s} {caught.value!r}"


@pytest.mark.parametrize("printed", [b"\xff\xfe", b"{\xff}"])
def test_what_is_no_text(tmp_path: Path, printed: bytes) -> None:
    file = tmp_path / "printed"
    file.write_bytes(printed)
    with pytest.raises(AnswerError, match="what cat prints is no text"):
        watch("cat", str(file)).look()


def test_what_is_printed_is_in_no_error() -> None:
    with pytest.raises(AnswerError) as caught:
        watch("echo", SECRET).look()
    assert str(caught.value) == "what echo prints: the answer is no JSON"
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_the_longest_output_that_is_read() -> None:
    code = "import sys; sys.stdout.write('x' * int(sys.argv[1]))"
    assert python(code, str(MOST_BYTES)).output() == b"x" * MOST_BYTES
    with pytest.raises(AnswerError, match="more than 65536 bytes"):
        python(code, str(MOST_BYTES + 1)).output()


def test_an_output_without_end_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = Program(("sh", "-c", f"echo $$ >{file}; exec yes"), timeout_seconds=GENEROUS_SECONDS)
    with pytest.raises(AnswerError, match="more than 65536 bytes"):
        program.output()
    until(lambda: ended(int(file.read_text())), "the program is gone")


def pids(path: Path, count: int) -> list[int]:
    """So many numbers of processes that are noted there, once they are."""

    def noted() -> list[int]:
        found = re.findall(r"^(\d+)\n", path.read_text(), re.MULTILINE) if path.exists() else []
        return [int(pid) for pid in found] if len(found) == count else []

    return until(noted, f"{count} processes are noted")


def test_all_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = f"sleep 600 & echo $! >>{file}; echo $$ >>{file}; wait"
    with pytest.raises(NoAnswerError, match=r"sh did not end within 0\.5 s"):
        Program(("sh", "-c", script), timeout_seconds=0.5).output()
    if file.exists():  # on a slow machine it had no time for that
        for pid in re.findall(r"^(\d+)\n", file.read_text(), re.MULTILINE):
            until(functools.partial(ended, int(pid)), "it is gone")


def test_what_it_leaves_behind_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = f"sleep 600 & echo $! >>{file}; echo '[]'"  # which has stdout open still
    assert Program(("sh", "-c", script), timeout_seconds=GENEROUS_SECONDS).output() == b"[]\n"
    (left,) = pids(file, 1)
    until(lambda: ended(left), "what it left is gone")


def test_an_output_that_is_closed_early() -> None:
    code = (
        "import os, sys, time; print('[]', flush=True); os.close(1); sys.stdin.read(); os._exit(0)"
    )
    assert python(code).output() == b"[]\n"


def test_never_twice_at_a_time(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = Program(("cat", str(fifo)), timeout_seconds=GENEROUS_SECONDS)
    said: list[bytes] = []
    thread = threading.Thread(target=lambda: said.append(program.output()))
    thread.start()
    with fifo.open("w") as writing:  # opens once the program reads
        with pytest.raises(NoAnswerError, match="cat is still running"):
            program.output()
        writing.write("[]")
    thread.join(GENEROUS_SECONDS)
    assert said == [b"[]"]
    assert Program(("echo", "[]"), timeout_seconds=GENEROUS_SECONDS).output() == b"[]\n"


def test_one_that_cannot_be_killed_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(("sleep", "600"), timeout_seconds=0.01)
    kill = program_module._kill_group
    left: list[int] = []
    monkeypatch.setattr(program_module, "_kill_group", left.append)
    monkeypatch.setattr(program_module, "GRACE_SECONDS", 0.01)
    with pytest.raises(NoAnswerError, match="did not end within"):
        program.output()
    with pytest.raises(NoAnswerError, match="was killed and has not ended yet"):
        program.output()
    kill(left[0])
    until(lambda: "did not end within" in failure(program), "it is run again")
    kill(left[-1])
    until(lambda: program._left is None or program._left.poll() is not None, "it is reaped")


def failure(program: Program) -> str:
    with pytest.raises(NoAnswerError) as caught:
        program.output()
    return str(caught.value)


def test_it_does_not_outlive_hibprep(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        "import sys, threading; from pathlib import Path;"
        "from hibprep.signals.cloud.program import Program; from tests.waiting import until;"
        "program = Program(('sh', '-c', 'echo $$ >\"$0\"; exec sleep 600', sys.argv[1]),"
        " timeout_seconds=600);"
        "threading.Thread(target=program.output, daemon=True).start();"
        "file = Path(sys.argv[1]);"
        "until(lambda: file.exists() and file.read_text().endswith('\\n'), 'it has begun')"
    )
    subprocess.run(
        (sys.executable, "-c", code, str(file)),
        check=True,
        cwd=DOCUMENT.parents[1],
        timeout=2 * GENEROUS_SECONDS,
    )
    (pid,) = pids(file, 1)
    until(lambda: ended(pid), "it has ended")


def test_nothing_is_killed_later() -> None:
    for program in (python("pass"), Program(("sleep", "600"), timeout_seconds=0.01)):
        with contextlib.suppress(NoAnswerError):
            program.output()
    # the number of a process may be another's by then
    assert program_module._running == set()


def test_no_descriptor_is_left_open() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for program in (
        python("print('[]')"),
        python("raise SystemExit(1)"),
        python("print('x' * 100000)"),
        Program(("/no/such/program",), timeout_seconds=1),
        Program(("sleep", "600"), timeout_seconds=0.01),
    ):
        try:
            program.output()
        except (AnswerError, NoAnswerError):
            continue
    assert count() == before


# --- what is documented ---------------------------------------------------------------------------


def test_the_document_has_what_is_read() -> None:
    text = DOCUMENT.read_text()
    fields = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert fields == ["kind", "id", "at", "in_seconds", "begun", "text"]
    for kind in NoticeKind:
        assert f"`{kind}`" in text
        assert kind in (module.__doc__ or "")
    for field in fields:
        assert f"`{field}`" in (module.__doc__ or "")
    assert f"at most {MOST_NOTICES} of them" in text
    (example,) = re.findall(r"^```\n(\{.*?)^```$", text, re.MULTILINE | re.DOTALL)
    migrate, rebalance = notices_of(example, START)
    assert (migrate.kind, migrate.at) == (
        NoticeKind.MIGRATE,
        datetime(2026, 11, 22, 4, 10, tzinfo=UTC),
    )
    assert (rebalance.kind, rebalance.at) == (NoticeKind.REBALANCE, None)


def test_the_settings_in_the_document_can_be_set() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        settings = tomllib.loads(block)
        section = settings.get("notices", {"provider": "command"} | settings)
        assert NoticesSettings.model_validate(section).command
