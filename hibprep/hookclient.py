# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket from the other side, for hooks and the command line.

Standard library only, and little of it: hooks run while somebody waits for the sleep. One document
in a line each way; the protocol is described in `hibprep.signals.control`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

PATH = "/run/hibprep/control"
ANSWER_SECONDS = 5.0

_VERSION = 1
_LONGEST_ANSWER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


class NoDaemon(OSError):
    """No daemon runs, or none that listens at that path."""


class DaemonError(Exception):
    """The daemon said no, said nothing, or cannot be spoken with. `place` is the field of the
    request that it did not like, "" when it was none."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def request(
    document: dict[str, object], *, path: str = PATH, seconds: float = ANSWER_SECONDS
) -> dict[str, object]:
    """What the daemon answers to `document` ("v" is added), within `seconds` in all.

    Raises NoDaemon, and DaemonError for an error answer, for none in time and for no access.
    """
    deadline = time.monotonic() + seconds
    with _connected(path, seconds) as connection:
        _send(connection, document, path, seconds)
        answer, _ = _answer(connection, b"", path, deadline, seconds)
        return answer


def request_and_wait(
    document: dict[str, object], *, path: str, seconds: float, most_seconds: float
) -> dict[str, object]:
    """As `request`; but where the answer is that it has yet to be waited for ("wait_seconds"), the
    one after it, within that time and `most_seconds` at most. Raises as `request`."""
    deadline = time.monotonic() + seconds
    with _connected(path, seconds) as connection:
        _send(connection, document, path, seconds)
        answer, rest = _answer(connection, b"", path, deadline, seconds)
        wait = answer.get("wait_seconds")
        if not isinstance(wait, (int, float)):
            return answer
        patience = min(float(wait), most_seconds)
        answer, _ = _answer(connection, rest, path, time.monotonic() + patience, patience)
        return answer


def follow(path: str = PATH, *, seconds: float = ANSWER_SECONDS) -> Iterator[dict[str, object]]:
    """An answer with a "status" at once (the first within `seconds`) and at every change, until
    the daemon ends, which is no error. Closing the iterator closes the connection."""
    deadline: float | None = time.monotonic() + seconds
    with _connected(path, seconds) as connection:
        _send(connection, {"do": "follow"}, path, seconds)
        rest = b""
        while True:
            try:
                answer, rest = _answer(connection, rest, path, deadline, seconds)
            except _Ended:
                if deadline is None:
                    return
                raise
            yield answer
            deadline = None


class _Ended(DaemonError):
    """The daemon closed the connection between two lines."""


def _connected(path: str, seconds: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(max(0.001, seconds))
        connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        connection.close()
        raise NoDaemon(
            error.errno, f"no hibprep daemon runs: start hibprep.service ({error.strerror})", path
        ) from error
    except PermissionError as error:
        connection.close()
        raise DaemonError(f"{path}: {error.strerror}: run as root") from error
    except OSError as error:
        connection.close()
        # TimeoutError and BlockingIOError: it runs and does not accept
        raise DaemonError(f"{path}: no connection to the daemon: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _send(
    connection: socket.socket, document: dict[str, object], path: str, seconds: float
) -> None:
    line = json.dumps({"v": _VERSION, **document}, separators=(",", ":")).encode() + b"\n"
    try:
        connection.sendall(line)
    except TimeoutError as error:
        raise DaemonError(f"{path}: the daemon took no request within {seconds:g} s") from error
    except (BrokenPipeError, ConnectionResetError):
        return  # it may have said why: that is read next
    except OSError as error:
        raise DaemonError(f"{path}: {error.strerror or error}") from error


def _answer(
    connection: socket.socket, rest: bytes, path: str, deadline: float | None, seconds: float
) -> tuple[dict[str, object], bytes]:
    """One line as a document, and what was read beyond it."""
    parts = [rest]
    size = len(rest)
    while b"\n" not in parts[-1]:
        if size > _LONGEST_ANSWER_BYTES:
            raise DaemonError(f"{path}: the daemon's answer has no end")
        try:
            connection.settimeout(_left(deadline))
            part = connection.recv(_CHUNK_BYTES)
        except TimeoutError as error:
            raise DaemonError(f"{path}: the daemon did not answer within {seconds:g} s") from error
        except OSError as error:
            raise DaemonError(f"{path}: {error.strerror or error}") from error
        if not part:
            if size == 0:
                raise _Ended(f"{path}: the daemon closed the connection without an answer")
            raise DaemonError(f"{path}: the daemon's answer was cut short")
        parts.append(part)
        size += len(part)
    line, _, rest = b"".join(parts).partition(b"\n")
    return _understood(line, path), rest


def _left(deadline: float | None) -> float | None:
    # 0 would mean "do not wait at all" and not "no time is left"
    return None if deadline is None else max(0.001, deadline - time.monotonic())


def _understood(line: bytes, path: str) -> dict[str, object]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DaemonError(f"{path}: the daemon's answer is no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise DaemonError(f"{path}: the daemon's answer is no object")
    if "error" in answer:
        raise DaemonError(str(answer["error"]), str(answer.get("place", "")))
    if answer.get("v") != _VERSION:
        raise DaemonError(
            f"{path}: the daemon speaks version {answer.get('v')!r} and this program {_VERSION}: "
            "restart hibprep.service, so that both are of the same release"
        )
    return answer
