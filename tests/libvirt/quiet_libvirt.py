# SPDX-License-Identifier: LGPL-2.1-or-later
"""A way to a libvirtd on which no events come: so that what becomes of a guest shows what a hook
alone has brought about."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

# src/rpc/virnetprotocol.x: every message begins with its length, then a header
_HEADER = struct.Struct(">IIIiiIi")  # length, program, version, procedure, type, serial, status
_EVENT = 2  # VIR_NET_MESSAGE: nobody has asked for it
_KEEPALIVE_PROGRAM = 0x6B656570
_CHUNK_BYTES = 1 << 16


class QuietLibvirt:
    """Listens on `path`, and hands on to `to` and back all but events."""

    def __init__(self, path: Path, to: Path) -> None:
        self._to = to
        self.kept_back = 0  # events
        self.uri = f"qemu+unix:///session?socket={path}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o666)
        self._listener.listen()
        self._path = path
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):  # nobody is there any more
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()
        self._path.unlink()

    def _begin(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._open += (near, far)
            try:
                far.connect(str(self._to))
            except OSError:  # libvirtd is not there
                near.shutdown(socket.SHUT_RDWR)
                continue
            self._begin(self._to_libvirt, near, far)
            self._begin(self._from_libvirt, near, far)

    def _to_libvirt(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(_CHUNK_BYTES):
                far.sendall(data)
        _end(near, far)

    def _from_libvirt(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError), far.makefile("rb") as stream:
            while len(head := stream.read(_HEADER.size)) == _HEADER.size:
                length, program, _, _, kind, _, _ = _HEADER.unpack(head)
                message = head + stream.read(length - len(head))
                if kind == _EVENT and program != _KEEPALIVE_PROGRAM:
                    self.kept_back += 1
                else:
                    near.sendall(message)
        _end(near, far)


def _end(*connections: socket.socket) -> None:
    for each in connections:
        with contextlib.suppress(OSError):  # the other direction has ended it
            each.shutdown(socket.SHUT_RDWR)
