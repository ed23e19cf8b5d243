# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way to a metadata service: HTTP by urllib3, to one address and to no other.

No proxy (a metadata service answers for whoever asks it), no redirect, no name service: the
address is the provider's documented one, and names go into the Host header alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import urllib3

from hibprep.errors import ConfigError
from hibprep.signals.cloud.base import AnswerError, NoAnswerError, Reply
from hibprep.signals.cloud.timed import TimedPool

MOST_BYTES = 256 << 10  # a notice has hundreds, Azure's list of a scale set's may have thousands
_CHUNK_BYTES = 16 << 10
# of Alibaba Cloud; in the range of shared addresses (RFC 6598), where others may be anybody's
_SHARED_ADDRESS = ipaddress.ip_address("100.100.100.200")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a metadata service is: an address of this link, and the name that it wants to hear."""

    address: str
    port: int = 80
    host: str = ""  # the Host header; "": the address


def is_allowed(address: str) -> bool:
    """Whether a metadata service may be at `address`: link-local (RFC 3927), one of the two that
    AWS and GCP have for IPv6, Alibaba's, or this machine itself (a stand-in for one)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (
        found.is_link_local
        or found.is_loopback
        or found == _SHARED_ADDRESS
        or found in (ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("fd20:ce::254"))
    )


class HttpLink:
    """The real one. Any number of threads may ask at the same time; up to `connections` are kept
    open for the next request."""

    def __init__(self, place: Place, *, connections: int = 8) -> None:
        """Raises ConfigError for an address that no metadata service has."""
        if not is_allowed(place.address):
            raise ConfigError(
                f"{place.address} is no link-local address",
                "a metadata service is asked at 169.254.0.0/16, at loopback, or not at all",
            )
        self._place = place
        # never urllib3.ProxyManager, and HTTPConnectionPool reads no proxy from the environment
        self._pool = TimedPool(
            place.address, place.port, maxsize=connections, block=False, retries=False
        )

    def close(self) -> None:
        """Give the connections back."""
        self._pool.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_seconds: float = 2.0,
    ) -> Reply:
        """See `Link.request`."""
        sent = {"Host": self._place.host or self._host(), **(headers or {})}
        try:
            response = self._pool.request(
                method,
                path,
                headers=sent,
                body=body,
                redirect=False,
                preload_content=False,
                timeout=urllib3.Timeout(total=timeout_seconds),
            )
            try:
                got = _read(response)
            except BaseException:
                response.close()  # what is left of it must not be the next answer
                raise
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # not the error's own text: it has the request's headers in it in some versions
            raise NoAnswerError(
                f"{self._place.address}: no answer to {method} {path.partition('?')[0]}: "
                f"{type(error).__name__}"
            ) from None
        named = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status, got, named)

    def _host(self) -> str:
        address = self._place.address
        name = f"[{address}]" if ":" in address else address
        return name if self._place.port == 80 else f"{name}:{self._place.port}"  # noqa: PLR2004


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """All of it, of what is short enough."""
    parts: list[bytes] = []
    size = 0
    try:
        while part := response.read1(_CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise AnswerError(f"the answer is longer than {MOST_BYTES} bytes")
    except (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError):
        raise AnswerError("the answer is broken off, or is no HTTP") from None
    return b"".join(parts)


def date_of(reply: Reply) -> datetime | None:
    """The server's clock, UTC; None where it does not tell, or nothing that is a date."""
    try:
        found = parsedate_to_datetime(reply.headers["date"])
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None


def text_of(reply: Reply) -> str:
    """The body as text. Raises AnswerError when it is none."""
    try:
        return reply.body.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise AnswerError("the answer is no text") from None
