# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a provider of notices is. Its code blocks, and is called in threads of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from hibprep.errors import HibprepError, NotPossibleError
from hibprep.notices import Notice, ProviderName


class NoAnswerError(HibprepError):
    """The metadata service did not answer, or not in time: it may a moment later."""


class AnswerError(HibprepError):
    """It answered with what is none of the forms that are documented. The text of the answer is
    not in the message: it may be a token, or a page of somebody else's."""


class NotHereError(NotPossibleError):
    """This machine is not with that provider, or it gives no notices here (a metadata service that
    is switched off); the remedy says what would change that."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of a metadata service; names of headers are in small letters."""

    status: int
    body: bytes = field(repr=False)  # it may be a token
    headers: Mapping[str, str] = field(default_factory=dict)


class Link(Protocol):
    """The way to one metadata service and to no other address; `hibprep.signals.cloud.link` has
    the real one. Paths begin with a slash; the query is a part of them."""

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_seconds: float = 2.0,
    ) -> Reply:
        """The answer, whatever its status; redirects are answers, and are not followed. Raises
        NoAnswerError when there is none (in time), AnswerError when it is longer than a notice can
        be, or broken off."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one place says now: all notices that hold. One that was told of before and is not any
    more has been withdrawn, or is over."""

    notices: tuple[Notice, ...] = ()
    now: datetime | None = None  # the server's clock (its Date header); None: it tells no time
    words: str = ""  # what was answered, for `hibprep notices`: "404: nothing is announced"


class Watch(Protocol):
    """One place to look at again and again."""

    @property
    def name(self) -> str:
        """For people: spot/instance-action."""

    @property
    def pause_seconds(self) -> float:
        """Between the end of a look and the next one; 0 where a look itself waits for news."""

    def look(self) -> Look:
        """Look once; raises NoAnswerError, AnswerError, NotHereError."""


class Provider(Protocol):
    """One cloud, over the link that it was made with."""

    @property
    def name(self) -> ProviderName:
        """Which one."""

    def watches(self) -> Sequence[Watch]:
        """What is worth looking at on this machine (an on-demand instance has no spot notices), at
        least one. Raises NotHereError with the reason, NoAnswerError and AnswerError."""

    def acknowledge(self, notice: Notice) -> None:
        """Tell the provider that we are ready; what it does then may begin at once. Raises
        NotHereError where there is no such thing, NoAnswerError and AnswerError."""
