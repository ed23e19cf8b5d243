# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands and files over a channel: the part of a guest that is the same in every life of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.lab.errors import AgentError, GuestTimeout
from bench.lab.results import Result

if TYPE_CHECKING:
    from bench.lab.channel import Channel, Message

# A reply has to travel through an emulated serial port after the command has ended.
GRACE_SECONDS = 15.0
_CHUNK_BYTES = 1 << 20
_FILE_SECONDS = 60.0


def result_of(reply: Message) -> Result:
    """The agent's reply to a command as a Result; AgentError if it could not be run."""
    if "error" in reply:
        raise AgentError(f"run: {reply['error']}")
    return Result(
        returncode=int(reply["returncode"]),
        stdout=base64.b64decode(reply["stdout"]),
        stderr=base64.b64decode(reply["stderr"]),
    )


def run(
    channel: Channel,
    argv: Sequence[str],
    *,
    timeout: float,
    given: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command to its end. It is killed, with its group, after ``timeout`` seconds."""
    fields: dict[str, Any] = {
        "argv": list(argv),
        "timeout": timeout,
        "env": dict(environment or {}),
    }
    if given is not None:
        fields["input"] = base64.b64encode(given).decode()
    tag, future = channel.post("run", **fields)
    reply = channel.wait("run", tag, future, timeout + GRACE_SECONDS)
    channel.tell("forget", of=tag)
    result = result_of(reply)
    if reply["late"]:
        raise GuestTimeout(
            f"did not end within {timeout:.0f} s and was killed\n"
            f"stdout: {result.text[-2000:]}\nstderr: {result.error_text[-2000:]}"
        )
    return result


def put(channel: Channel, data: bytes, remote: str, mode: int) -> None:
    """Write a file of the guest, whole or not at all."""
    offset, final = 0, False
    while not final:
        piece = data[offset : offset + _CHUNK_BYTES]
        final = offset + len(piece) >= len(data)
        channel.request(
            "put",
            _FILE_SECONDS,
            path=remote,
            mode=mode,
            offset=offset,
            final=final,
            data=base64.b64encode(piece).decode(),
        )
        offset += len(piece)


def get(channel: Channel, remote: str) -> bytes:
    """Read a file of the guest."""
    data, end = bytearray(), False
    while not end:
        reply = channel.request("get", _FILE_SECONDS, path=remote, offset=len(data))
        data += base64.b64decode(reply["data"])
        end = bool(reply["end"])
    return bytes(data)
