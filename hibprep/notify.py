# SPDX-License-Identifier: LGPL-2.1-or-later
"""Telling the service manager how the daemon is: sd_notify(3), sd_watchdog_enabled(3).

One datagram each, which is all that the stable interface asks for. Where nobody listens, nothing is
done; a word that does not arrive is logged and never an error.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from hibprep.clock import Clock

log = logging.getLogger(__name__)

_MICROSECONDS = 1_000_000
_LONGEST_STATUS = 500
# ready, reloading and stopping change what the manager does: they are worth a short wait when its
# queue is full. The others come again.
_PATIENT_SECONDS = 2.0


class Notifier:
    """The service manager that `environ` names. Its variables are taken out of `environ`, so that
    children neither speak for the daemon nor are counted as its watchdog.

    `watchdog_seconds` is how often `watchdog` has to be called: half the time after which the
    manager kills, as sd_watchdog_enabled(3) advises; None when no watchdog is wanted of this
    process.
    """

    def __init__(self, environ: MutableMapping[str, str], clock: Clock) -> None:
        self._clock = clock
        self._said = ""  # the last STATUS
        self._address = _address(environ.pop("NOTIFY_SOCKET", ""))
        seconds = _watchdog(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))
        self.watchdog_seconds = seconds if self._address else None

    @property
    def listened_to(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        """The daemon has started, or has reloaded. Returns, as all of these, whether it was
        told."""
        return self._send("READY=1", *self._status_line(status), seconds=_PATIENT_SECONDS)

    def status(self, text: str) -> bool:
        """One line for `systemctl status`; what was said last is not said again."""
        lines = self._status_line(text)
        return self._send(*lines) if lines else False

    def reloading(self) -> bool:
        """A reload begins; `ready` ends it. Type=notify-reload tells by the time that it is the
        reload that was asked for (systemd.service(5))."""
        microseconds = int(self._clock.monotonic() * _MICROSECONDS)
        return self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", seconds=_PATIENT_SECONDS)

    def stopping(self, status: str = "") -> bool:
        """The daemon has begun to end."""
        return self._send("STOPPING=1", *self._status_line(status), seconds=_PATIENT_SECONDS)

    def watchdog(self) -> bool:
        """The daemon is alive."""
        return self._send("WATCHDOG=1")

    def _status_line(self, text: str) -> tuple[str, ...]:
        line = " ".join(text.split())[:_LONGEST_STATUS]
        if line == self._said:
            return ()
        self._said = line
        return (f"STATUS={line}",)

    def _send(self, *assignments: str, seconds: float = 0.0) -> bool:
        if not self._address:
            return False
        data = "\n".join(assignments).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(seconds)
                out.sendto(data, self._address)
        except OSError as error:
            self._said = ""
            log.warning("the service manager was not told %s: %s", assignments[0], error)
            return False
        return True


def _address(text: str) -> str:
    if not text or text[0] == "/":
        return text
    if text[0] == "@":
        return "\0" + text[1:]
    log.warning("NOTIFY_SOCKET=%s is of a kind that is not known; nothing will be told", text)
    return ""


def _watchdog(microseconds: str, pid: str) -> float | None:
    if not microseconds or (pid and pid != str(os.getpid())):
        return None
    if not microseconds.isascii() or not microseconds.isdecimal() or int(microseconds) == 0:
        log.warning("WATCHDOG_USEC=%s is no time; the watchdog is left alone", microseconds)
        return None
    return int(microseconds) / _MICROSECONDS / 2
