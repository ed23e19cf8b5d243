# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hosts of a move, which may go away meanwhile; putting a guest back on whichever has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hibprep.errors import HibprepError
from hibprep.guests.calls import Call, NoAnswerError, within
from hibprep.guests.errors import ConnectionFailedError, NoSuchDomainError
from hibprep.guests.means import Means
from hibprep.guests.port import DomainState, Host
from hibprep.guests.undo import UNDO_SECONDS, UndoEnding, Undone, undo

Value = TypeVar("Value")
Connect = Callable[[str], Host]

ANSWER_SECONDS = 40.0  # libvirt itself waits 30 s for a job that is in the way
AGAIN_SECONDS = 1.0
CLOSE_SECONDS = 2.0
# a daemon that was killed is started again by systemd, and a job that was aborted is cleaned up
RETURN_SECONDS = 20.0


class Side:
    """One host: connected to when it is needed, and anew when the connection was lost."""

    def __init__(self, uri: str, connect: Connect) -> None:
        self.uri = uri
        self._connect = connect
        self._host: Host | None = None

    def host(self) -> Host:
        """Connected; ConnectionFailedError."""
        if self._host is None:
            self._host = self._connect(self.uri)
        return self._host

    def ask(self, question: Callable[[Host], Value], seconds: float = ANSWER_SECONDS) -> Value:
        """What `question` returns or raises. NoAnswerError when that takes longer: then, and when
        the connection is lost, the next question is asked over another one."""
        try:
            return within(seconds, lambda: question(self.host()), self.uri)
        except (ConnectionFailedError, NoAnswerError):
            self._let_go()
            raise

    def close(self) -> None:
        """Give the connection back."""
        self._let_go()

    def _let_go(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            # what does not answer may not even be closed: that is for a thread of its own
            Call(host.close, f"closing {self.uri}").wait(CLOSE_SECONDS)


def state_on(side: Side, uuid: str) -> DomainState | None:
    """The domain's state there; None where there is no such domain. Raises when it cannot be
    asked."""
    try:
        return side.ask(lambda host: host.find(uuid).info().state)
    except NoSuchDomainError:
        return None


def put_back(side: Side, name: str, uuid: str, means: Means) -> Undone:
    """Undo a domain there, whatever it takes within the time; what became of it, never an error.
    A domain that is not there has nothing to undo."""
    end = means.clock.monotonic() + RETURN_SECONDS
    while True:
        try:
            return side.ask(
                lambda host: undo(host.find(uuid), means.calmly(), seconds=UNDO_SECONDS),
                ANSWER_SECONDS + 2 * UNDO_SECONDS,
            )
        except NoSuchDomainError:
            return Undone(name=name, uuid=uuid, ending=UndoEnding.NOTHING, reason="it is not there")
        except HibprepError as error:
            trouble = error
        if means.clock.monotonic() >= end:
            return Undone(name=name, uuid=uuid, ending=UndoEnding.FAILED, reason=str(trouble))
        means.calm.wait(AGAIN_SECONDS)


def is_back(undone: Undone) -> bool:
    """Whether nothing is left to put back."""
    return undone.ending in (UndoEnding.DONE, UndoEnding.NOTHING)


def command_to_undo(uri: str, name: str) -> str:
    """What to type for it later."""
    return f"hibprep guest undo --connect {uri} {name}"


def lost(error: HibprepError) -> bool:
    """Whether the host itself is what did not answer."""
    return isinstance(error, (ConnectionFailedError, NoAnswerError))
