# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook as libvirt calls it (https://libvirt.org/hooks.html): a process of its own, for which a
guest waits, and whose exit code and stdout decide whether it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import hibprep
from hibprep import guesthook
from hibprep.events import GuestEvent, GuestOperation
from tests.fakes.control import Served, run, served
from tests.listening import only
from tests.waiting import GENEROUS_SECONDS

SCRIPT = Path(__file__).parents[2] / "hooks/libvirt/qemu"
PYTHON = "/usr/bin/python3"
UUID = "6f0c2a8e-6d0c-4c6a-9f1e-0b5a4f1d2c3b"
HEAD = f"<domain type='kvm'>\n  <name>web-1</name>\n  <uuid>{UUID}</uuid>\n  <metadata>"
OURS = (
    "<hibprep:prepared xmlns:hibprep='urn:hibprep:guest:1' original-kib='655360'/>"
    "<h:source xmlns:h='urn:hibprep:source:1' host='host-a'/>"
)
TAIL = "</metadata>\n  <memory unit='KiB'>655360</memory>\n  <devices></devices>\n</domain>\n"
XML = (HEAD + OURS + TAIL).encode()

# every operation of the contract, and what libvirt 9.0 gives beside it
CONTRACT = [
    ("prepare", "begin", "-"),
    ("start", "begin", "-"),
    ("started", "begin", "-"),
    ("stopped", "end", "-"),
    ("release", "end", "-"),
    ("release", "end", "migrated"),
    ("migrate", "begin", "-"),
    ("restore", "begin", "-"),
    ("reconnect", "begin", "-"),
    ("attach", "begin", "-"),
    ("what a later libvirt may add", "begin", "-"),
]
TOLD = {str(operation) for operation in GuestOperation}
# libvirt's environment for a hook has no more than these
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.environ["PATH"], "HOME": "/", "USER": "root"}

Done = subprocess.CompletedProcess[bytes]


def installed(folder: Path, **places: str) -> Path:
    """A copy for this machine, as `hibprep install` makes one, with `places` in it."""
    text = SCRIPT.read_text()
    known = {
        "LIBRARY": str(Path(hibprep.__file__).parent),
        "CONTROL": str(folder / "run/hibprep/control"),
    }
    for name, value in (known | places).items():
        old = next(line for line in text.splitlines() if line.startswith(f"{name}="))
        text = text.replace(old, f"{name}={value}")
    copy = folder / "50-hibprep"
    copy.write_text(text)
    copy.chmod(0o755)
    return copy


def patient(folder: Path) -> Path:
    """One that waits longer for a daemon that works: this machine may have other work to do."""
    library = folder / "library/hibprep"
    library.mkdir(parents=True)
    own = Path(hibprep.__file__).parent
    for name in ("__init__.py", "guesthook.py", "hookclient.py"):
        text = (own / name).read_text()
        library.joinpath(name).write_text(
            text.replace("ANSWER_SECONDS = 0.1\n", f"ANSWER_SECONDS = {GENEROUS_SECONDS}\n")
        )
    return installed(folder, LIBRARY=str(library))


def call(
    hook: Path, operation: str, sub: str = "begin", extra: str = "-", xml: bytes = XML
) -> Done:
    return subprocess.run(
        [str(hook), "web-1", operation, sub, extra],
        check=False, capture_output=True, input=xml, env=ENVIRONMENT, timeout=GENEROUS_SECONDS,
    )  # fmt: skip


def every_operation(hook: Path, xml: bytes = XML) -> None:
    for arguments in CONTRACT:
        done = call(hook, *arguments, xml=xml)
        assert (done.returncode, done.stdout) == (0, b""), arguments


@contextlib.contextmanager
def hanging(folder: Path, backlog: int = 16) -> Iterator[socket.socket]:
    """A daemon that accepts nobody and answers nothing."""
    place = folder / "run/hibprep/control"
    place.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.settimeout(GENEROUS_SECONDS)
        listener.listen(backlog)
        yield listener


def events(it: Served) -> list[GuestEvent]:
    return only(GuestEvent, it.signals)


# --- what is told ---------------------------------------------------------------------------------


def test_the_file_is_what_is_installed() -> None:
    text = SCRIPT.read_text()
    assert text.startswith("#!/bin/sh\n")
    assert os.access(SCRIPT, os.X_OK)
    assert f"\nPYTHON={PYTHON}\n" in text
    assert f'if [ $? -eq {guesthook.REFUSED} ] && [ "$2" = migrate ]; then\n' in text


def test_every_operation_is_told_or_is_not(tmp_path: Path) -> None:
    hook = patient(tmp_path)

    async def test() -> None:
        async with served(tmp_path) as it:
            for operation, sub, extra in CONTRACT:
                seen = len(events(it))
                done = await asyncio.to_thread(call, hook, operation, sub, extra)
                assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
                told = events(it)[seen:]
                if operation not in TOLD:
                    assert told == []
                    continue
                assert told == [
                    GuestEvent(
                        operation=GuestOperation(operation),
                        name="web-1",
                        uuid=UUID,
                        reason="" if extra == "-" else extra,
                        prepared=True,
                        source="host-a",
                    )
                ]

    run(test)


def test_a_large_description_is_read_to_its_end(tmp_path: Path) -> None:
    """Whoever writes it would be told of a broken pipe otherwise."""
    hook = patient(tmp_path)
    much = b"<other:x xmlns:other='urn:x'>" + b"<y a='b'>text</y>\n" * (1 << 16) + b"</other:x>"
    xml = HEAD.encode() + OURS.encode() + much + TAIL.encode() + b"<!-- more -->\n" * 40_000
    assert len(xml) > 1 << 20

    def write(operation: str) -> None:
        with subprocess.Popen(
            [str(hook), "web-1", operation, "begin", "-"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(xml)
            process.stdin.close()
            assert process.wait(GENEROUS_SECONDS) == 0

    async def test() -> None:
        async with served(tmp_path) as it:
            for operation, _, _ in CONTRACT:
                await asyncio.to_thread(write, operation)
            assert all(event.prepared and event.uuid == UUID for event in events(it))
            assert len(events(it)) == sum(operation in TOLD for operation, _, _ in CONTRACT)

    run(test)


def test_without_a_description_the_guest_is_still_named(tmp_path: Path) -> None:
    hook = patient(tmp_path)

    async def test() -> None:
        async with served(tmp_path) as it:
            for xml in (b"", b"\x00\xff", b"<domain>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><domain/>"):
                seen = len(events(it))
                done = await asyncio.to_thread(call, hook, "started", "begin", "-", xml)
                assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
                (event,) = events(it)[seen:]
                assert (event.name, event.uuid, event.prepared) == ("web-1", "", False)

    run(test)


# --- never in the way -----------------------------------------------------------------------------


def test_no_daemon(tmp_path: Path) -> None:
    hook = installed(tmp_path)
    every_operation(hook)
    assert call(hook, "started").stderr == b""
    with hanging(tmp_path):
        pass
    every_operation(hook)  # a socket that a killed one left
    assert call(hook, "started").stderr == b""


def test_a_daemon_that_hangs(tmp_path: Path) -> None:
    hook = installed(tmp_path)
    with hanging(tmp_path):
        every_operation(hook)
        assert b"did not answer within 0.1 s" in call(hook, "migrate").stderr
    assert guesthook.ANSWER_SECONDS <= 0.1


def test_a_daemon_that_accepts_nobody(tmp_path: Path) -> None:
    hook = installed(tmp_path)
    with hanging(tmp_path, backlog=0), contextlib.ExitStack() as stack:
        path = str(tmp_path / "run/hibprep/control")
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.settimeout(0)
            waiting.connect_ex(path)
        every_operation(hook)


def test_a_closed_stdin(tmp_path: Path) -> None:
    hook = installed(tmp_path)
    with hanging(tmp_path):
        for operation, sub, extra in CONTRACT:
            done = subprocess.run(
                ["/bin/sh", "-c", 'exec "$@" <&-', "sh", str(hook), "web-1", operation, sub, extra],
                check=False, capture_output=True, timeout=GENEROUS_SECONDS,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (0, b""), operation


def test_everything_closed(tmp_path: Path) -> None:
    hook = installed(tmp_path)
    with hanging(tmp_path):
        for operation, sub, _ in CONTRACT:
            done = subprocess.run(
                ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", str(hook), "g", operation, sub],
                check=False, timeout=GENEROUS_SECONDS,
            )  # fmt: skip
            assert done.returncode == 0, operation


def test_a_full_disk(tmp_path: Path) -> None:
    """Everything that is said goes to one, and there is something to say."""
    hook = installed(tmp_path)
    with hanging(tmp_path), open("/dev/full", "wb") as full:  # noqa: PTH123
        for arguments in CONTRACT:
            done = subprocess.run(
                [str(hook), "web-1", *arguments],
                check=False, input=XML, stdout=full, stderr=full, timeout=GENEROUS_SECONDS,
            )  # fmt: skip
            assert done.returncode == 0, arguments


@pytest.mark.parametrize(
    "program",
    [
        "import sys; print('<domain/>'); sys.exit(1)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "1/0",
        "(",
    ],
)
def test_whatever_becomes_of_what_is_run(tmp_path: Path, program: str) -> None:
    (tmp_path / "guesthook.py").write_text(program)
    every_operation(installed(tmp_path, LIBRARY=str(tmp_path)))


def test_no_python_and_no_hibprep(tmp_path: Path) -> None:
    for places in ({"PYTHON": "/nowhere/python3"}, {"LIBRARY": str(tmp_path / "gone")}):
        hook = installed(tmp_path, **places)
        every_operation(hook, xml=XML * 3000)
        assert call(hook, "started").stderr == b""


@pytest.mark.parametrize("arguments", [(), ("web-1",), ("web-1", "started"), ("", "", "", "")])
def test_whatever_it_is_called_with(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [str(installed(tmp_path)), *arguments],
        check=False, capture_output=True, input=XML, timeout=GENEROUS_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nobody_is_left_who_has_the_pipes_open(tmp_path: Path) -> None:
    """libvirt reads both to their ends before it goes on."""
    hook = installed(tmp_path)
    with hanging(tmp_path):
        for operation, sub, extra in CONTRACT:
            read, write = os.pipe()
            with open(read, "rb") as reader:  # noqa: PTH123
                done = subprocess.run(
                    [str(hook), "web-1", operation, sub, extra],
                    check=False, input=XML, stdout=write, stderr=write, pass_fds=(write,),
                    timeout=GENEROUS_SECONDS,
                )  # fmt: skip
                os.close(write)
                os.set_blocking(read, False)
                # the end, and not BlockingIOError: no writer is left when the hook has ended
                while reader.read(4096):
                    assert done.returncode == 0
                assert reader.read(1) == b""


def test_little_is_imported_when_there_is_nobody_to_tell(tmp_path: Path) -> None:
    program = Path(guesthook.__file__)
    done = subprocess.run(
        [PYTHON, "-BIS", "-X", "importtime", str(program), str(tmp_path / "no"), "g", "started"],
        check=True, capture_output=True, text=True, input=XML.decode(), timeout=GENEROUS_SECONDS,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pyexpat" in imported
    assert not imported & {"json", "socket", "re", "enum", "typing", "subprocess", "pathlib"}


def test_no_byte_code_is_written(tmp_path: Path) -> None:
    hook = patient(tmp_path)
    with hanging(tmp_path):
        pass  # a socket that a killed one left: all is imported
    assert call(hook, "started").returncode == 0
    names = sorted(path.name for path in (tmp_path / "library/hibprep").iterdir())
    assert names == ["__init__.py", "guesthook.py", "hookclient.py"]


# --- waiting, and refusing ------------------------------------------------------------------------


def test_a_migration_that_is_wanted_to_wait(tmp_path: Path) -> None:
    hook = patient(tmp_path)

    async def test() -> None:
        async with served(tmp_path) as it:
            it.host.patience_seconds = GENEROUS_SECONDS
            it.host.asking = asyncio.Event()
            calling = asyncio.create_task(asyncio.to_thread(call, hook, "migrate"))
            async with asyncio.timeout(GENEROUS_SECONDS):
                while not it.host.asked:
                    assert not calling.done()
                    await asyncio.sleep(0.01)
            assert it.host.asked == events(it)
            it.host.asking.set()
            done = await calling
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    run(test)


def test_a_daemon_that_dies_while_it_is_waited_for(tmp_path: Path) -> None:
    hook = patient(tmp_path)
    with hanging(tmp_path) as listener:

        def die() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b'{"v":1,"ok":true,"wait_seconds":300}\n')

        dying = threading.Thread(target=die)
        dying.start()
        done = call(hook, "migrate")
        dying.join(GENEROUS_SECONDS)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"closed the connection" in done.stderr


def test_only_a_migration_is_ever_refused(tmp_path: Path) -> None:
    hook = patient(tmp_path)

    async def test() -> None:
        async with served(tmp_path) as it:
            it.host.patience_seconds = GENEROUS_SECONDS
            it.host.refuses = "web-1 could not be prepared on its source: ssh ended with code 255"
            for operation, sub, extra in CONTRACT:
                done = await asyncio.to_thread(call, hook, operation, sub, extra)
                assert done.stdout == b""
                refused = operation == "migrate"
                assert done.returncode == (1 if refused else 0), operation
                assert done.stderr.decode() == (f"hibprep: {it.host.refuses}\n" if refused else "")

    run(test)
