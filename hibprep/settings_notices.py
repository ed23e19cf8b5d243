# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declarations of the settings for notices: who gives them, and what is done on one."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from hibprep.noticerules import Deed, Rule
from hibprep.notices import NoticeKind, ProviderName
from hibprep.settings import Argument, Number, Section

METADATA_PORT = 80
_LONGEST_SECONDS = 86400
_LOOPBACK_NAME = "localhost"
_URL = re.compile(r"[!-~]{1,2048}", re.ASCII)
_CREDENTIAL = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,254}", re.ASCII)
_HIGHEST_PORT = 65535
_PLACE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)


def parse_address(text: str) -> tuple[str, int]:
    """ADDRESS or ADDRESS:PORT, of this machine or of its link; IPv6 in brackets. Raises ValueError
    with the cure."""
    match = _PLACE.fullmatch(text)
    port = int(match["port"] or METADATA_PORT) if match else 0
    try:
        found = ipaddress.ip_address(match["six"] or match["four"]) if match else None
    except ValueError:
        found = None
    if found is None or not 0 < port <= _HIGHEST_PORT:
        raise ValueError(f"{text!r} is no address; give one such as 127.0.0.1:1338")
    if not (found.is_loopback or found.is_link_local):
        raise ValueError(
            f"{found} is neither of this machine nor of its link; give an address of 127.0.0.0/8 "
            "or 169.254.0.0/16, such as 127.0.0.1:1338"
        )
    return str(found), port


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if host == _LOOPBACK_NAME:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_address(text: str) -> str:
    parse_address(text)
    return text


def _checked_url(text: str) -> str:
    # the address itself is in no error: many of them are secrets
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not _URL.fullmatch(text) or not host or port == 0:
        raise ValueError("`url` is no address; give one such as https://example.org/notices")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError(
            "`url` has a name, a password or a fragment in it; leave them out and name a "
            "`credential` for the secret"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ValueError(
            "`url` is neither https nor http to this machine; give one such as "
            "https://example.org/notices"
        )
    return text


def _checked_credential(text: str) -> str:
    # nor is this in any: somebody may have put the secret here
    if not _CREDENTIAL.fullmatch(text):
        raise ValueError(
            "`credential` is no name of a credential; give that of LoadCredential= in a drop-in of "
            "hibprep.service, never the secret itself"
        )
    return text


class NoticesSettings(Section):
    """Notices of a cloud; read when the daemon starts."""

    provider: Annotated[
        Literal["auto", "off", "aws", "gcp", "azure", "alibaba", "tencent", "openstack", "command"],
        Field(
            description="auto: the cloud that this machine is found to be in; off: none; command: "
            "see `command`"
        ),
    ] = "auto"
    poll_seconds: Annotated[
        Number | None,
        Field(
            ge=1,
            le=300,
            description="so long between two questions; not set: what the provider advises",
        ),
    ] = None
    address: Annotated[
        Annotated[str, AfterValidator(_checked_address)] | None,
        Field(
            description="a stand-in for the provider's metadata service, of this machine or its "
            "link, such as 127.0.0.1:1338"
        ),
    ] = None
    command: Annotated[
        tuple[Argument, ...],
        Field(
            description='with provider = "command": a program that prints notices as JSON, and its '
            "arguments"
        ),
    ] = ()
    command_seconds: Annotated[
        Number, Field(gt=0, le=300, description="and it may take no longer")
    ] = 10.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.provider == "command" and not self.command:
            raise ValueError('provider = "command" needs `command`; set notices.command as well')
        if self.command and self.provider != "command":
            raise ValueError(
                f'`command` is read with provider = "command" only and provider is '
                f'"{self.provider}"; remove notices.command or change notices.provider'
            )
        if self.address is not None and self.provider in ("auto", "off", "command"):
            raise ValueError(
                f'`address` says where a provider is, not which; provider is "{self.provider}": '
                "name one such as aws, or remove notices.address"
            )
        return self


# which keys go with which deed, beside `notice`, `provider` and `do`
_WITH: dict[Deed, frozenset[str]] = {
    Deed.PREPARE: frozenset({"keep_seconds", "timeout_seconds"}),
    Deed.SWAPIN: frozenset({"timeout_seconds"}),
    Deed.RUN: frozenset({"command", "timeout_seconds"}),
    Deed.HIBERNATE: frozenset({"timeout_seconds"}),
    Deed.ASIDE: frozenset({"timeout_seconds"}),
    Deed.ACKNOWLEDGE: frozenset(),
    Deed.WEBHOOK: frozenset({"url", "credential", "timeout_seconds"}),
}
_NEEDS = {Deed.RUN: "command", Deed.WEBHOOK: "url"}


class OnSettings(Section):
    """One action on a notice; all that fit are done, in the order of the file."""

    notice: Annotated[
        tuple[NoticeKind, ...], Field(min_length=1, description="on notices of these kinds")
    ]
    provider: Annotated[
        tuple[ProviderName, ...], Field(description="from these alone; empty: from all")
    ] = ()
    do: Annotated[Deed, Field(description="what is done")]
    keep_seconds: Annotated[
        Number | None,
        Field(
            ge=0,
            le=_LONGEST_SECONDS,
            description="prepare: so much of the time that is left is kept for what follows; not "
            "set: the time-outs of what follows, and the predicted hibernation",
        ),
    ] = None
    timeout_seconds: Annotated[
        Number | None,
        Field(
            gt=0, le=_LONGEST_SECONDS, description="it takes no longer, however much time is left"
        ),
    ] = None
    command: Annotated[
        tuple[Argument, ...], Field(description="run: a program and its arguments")
    ] = ()
    url: Annotated[
        Annotated[str, AfterValidator(_checked_url)] | None,
        Field(description="webhook: where the notice is sent, https or http to this machine"),
    ] = None
    credential: Annotated[
        Annotated[str, AfterValidator(_checked_credential)] | None,
        Field(
            description="webhook: the name of a credential of hibprep.service (LoadCredential=) "
            "that is sent as a bearer token"
        ),
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in ("keep_seconds", "timeout_seconds", "command", "url", "credential"):
            if getattr(self, key) in (None, ()):
                continue
            if key not in _WITH[self.do]:
                users = " or ".join(f'"{deed}"' for deed, keys in _WITH.items() if key in keys)
                raise ValueError(
                    f'`{key}` goes with do = {users} and do is "{self.do}"; remove `{key}` or '
                    "change `do`"
                )
        needed = _NEEDS.get(self.do)
        if needed is not None and getattr(self, needed) in (None, ()):
            raise ValueError(f'do = "{self.do}" needs `{needed}`; set `{needed}` as well')
        return self

    def rule(self, number: int) -> Rule:
        """The same for `hibprep.noticerules`; `number` is its place in the file, from 1 on."""
        return Rule(
            deed=self.do,
            reason=f"[[on]] {number}",
            kinds=self.notice,
            providers=self.provider,
            keep_seconds=self.keep_seconds,
            timeout_seconds=self.timeout_seconds,
            command=self.command,
            url=self.url or "",
            credential=self.credential or "",
        )
