# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control agent: runs in the guest, takes requests from a virtio-serial port, answers them.

Standard library only; the image contains this very file. One JSON object a line in both directions,
every request with a tag that its reply repeats. Lines find their own beginning again after a cut
in the middle of one, which is what happens to a reply that is on its way when the machine is
hibernated. For the same reason the result of a command is kept until the host has said that it
has it: after resume the host collects by tag what was lost on the way.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Any

PORT = "/dev/virtio-ports/org.hibprep.lab"
CHUNK_BYTES = 1 << 20
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}

_WATCH_SECONDS = 0.25
_PORT_MILLISECONDS = 500  # a port that works is writable at once

Message = dict[str, Any]


def _lock_memory() -> None:
    # The agent is the stop watch: were it reclaimed, every figure would contain its page faults.
    current_and_future = 1 | 2
    ctypes.CDLL(None).mlockall(current_and_future)


def _make_ordinary(pid: int) -> None:
    # What the agent runs must not inherit the protection of the agent from the OOM killer. Done
    # from outside, because code between fork and exec is not safe in a program with threads.
    with contextlib.suppress(OSError):  # it may have ended already
        Path(f"/proc/{pid}/oom_score_adj").write_text("0")


def _asleep_seconds() -> float:
    """The time that this machine has been suspended or hibernated in all."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class Agent:
    """Serves requests of one port for as long as the guest lives."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._fd = -1
        self._sending = threading.Lock()
        self._state = threading.Lock()
        self._running: set[str] = set()
        self._finished: dict[str, Message] = {}
        # Tells the agent that went to sleep from one that was started by a fresh boot.
        self._identity = os.urandom(8).hex()

    def serve(self) -> None:
        """Read lines for ever; the far end may come and go."""
        self._open()
        threading.Thread(target=self._watch, daemon=True).start()
        buffer = bytearray()
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                os.close(self._fd)
                self._open()
                continue
            if not data:  # nobody is connected on the host's side; there is no event to wait for
                time.sleep(0.1)
                continue
            buffer += data
            while (end := buffer.find(b"\n")) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                self._line(line)

    def _watch(self) -> None:
        """After every hibernation, see to it that the port works.

        Linux 7.3 restores virtio_console without telling the device that its ports are ready: no
        byte goes through any more, until the driver is bound anew. Up to 7.2 there is no need.
        """
        asleep = _asleep_seconds()
        while True:
            time.sleep(_WATCH_SECONDS)
            now = _asleep_seconds()
            if now - asleep > _WATCH_SECONDS and not self._writable():
                device = Path("/sys/class/virtio-ports", self._device(), "device").resolve().name
                for verb in ("unbind", "bind"):
                    Path("/sys/bus/virtio/drivers/virtio_console", verb).write_text(device)
            asleep = now

    def _writable(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(_PORT_MILLISECONDS))

    def _device(self) -> str:
        return Path(self._port).resolve().name

    def _open(self) -> None:
        while True:
            try:
                self._fd = os.open(self._port, os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # udev has not made it yet, or it was taken away for a moment
                time.sleep(0.1)
            else:
                return

    def _line(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return  # the rest of a line whose beginning went to another life
        if not isinstance(message, dict) or not isinstance(message.get("tag"), str):
            return
        if message.get("op") == "ping":
            self._send({"tag": message["tag"], "identity": self._identity})
        else:
            threading.Thread(target=self._answer, args=(message,), daemon=True).start()

    def _answer(self, message: Message) -> None:
        tag = message["tag"]
        reply: Message | None
        try:
            reply = getattr(self, "_op_" + str(message.get("op")))(message)
        except Exception as error:  # noqa: BLE001  # the host must hear of everything, or it waits in vain
            reply = {"error": f"{type(error).__name__}: {error}"}
        if reply is not None:
            self._send({"tag": tag, **reply})

    def _send(self, message: Message) -> None:
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        with self._sending:
            while data:
                try:
                    data = data[os.write(self._fd, data) :]
                except OSError:
                    return  # the port was taken away; the host collects again

    def _op_run(self, message: Message) -> Message | None:
        tag = message["tag"]
        with self._state:
            self._running.add(tag)
        try:
            reply = self._run(message)
        except Exception as error:  # noqa: BLE001  # as above
            reply = {"error": f"{type(error).__name__}: {error}"}
        with self._state:
            self._finished[tag] = reply
            self._running.discard(tag)
        return reply

    def _tell_lines(self, tag: str, stream: IO[bytes], kept: list[bytes]) -> None:
        with stream:
            for line in stream:
                kept.append(line)
                self._send({"tag": tag, "said": line.decode(errors="replace").rstrip("\n")})

    def _run(self, message: Message) -> Message:
        process = subprocess.Popen(
            message["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **message.get("env", {})},
            cwd="/",
            start_new_session=True,
        )
        _make_ordinary(process.pid)
        late = False
        given = base64.b64decode(message.get("input", ""))
        # With "follow", lines are told as they come: the host has the only clock that counts.
        kept: list[bytes] = []
        follower = None
        if message.get("follow") and process.stderr is not None:
            follower = threading.Thread(
                target=self._tell_lines, args=(message["tag"], process.stderr, kept), daemon=True
            )
            process.stderr = None  # communicate() is to leave it to the thread
            follower.start()
        try:
            stdout, stderr = process.communicate(given, timeout=message["timeout"])
        except subprocess.TimeoutExpired:
            late = True
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        if follower is not None:
            follower.join()
            stderr = b"".join(kept)
        return {
            "returncode": process.returncode,
            "late": late,
            "stdout": base64.b64encode(stdout).decode(),
            "stderr": base64.b64encode(stderr).decode(),
        }

    def _op_collect(self, message: Message) -> Message:
        with self._state:
            if message["of"] in self._running:
                return {"state": "running"}
            reply = self._finished.get(message["of"])
        return {"state": "unknown"} if reply is None else {"state": "done", "reply": reply}

    def _op_forget(self, message: Message) -> None:
        with self._state:
            self._finished.pop(message["of"], None)

    def _op_put(self, message: Message) -> Message:
        path = Path(message["path"])
        partial = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("r+b" if message["offset"] else "wb") as stream:
            stream.seek(message["offset"])
            stream.write(base64.b64decode(message["data"]))
        if message["final"]:
            partial.chmod(message["mode"])
            partial.replace(path)
        return {}

    def _op_get(self, message: Message) -> Message:
        # Until the chunk is full or the file ends: files of /proc come in small pieces.
        data = bytearray()
        with Path(message["path"]).open("rb", buffering=0) as stream:
            if message["offset"]:
                stream.seek(message["offset"])
            while len(data) < CHUNK_BYTES:
                piece = stream.read(CHUNK_BYTES - len(data))
                if not piece:
                    break
                data += piece
        return {"data": base64.b64encode(data).decode(), "end": len(data) < CHUNK_BYTES}


if __name__ == "__main__":
    _lock_memory()
    Agent(PORT).serve()
