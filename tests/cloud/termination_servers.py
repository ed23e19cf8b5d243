# SPDX-License-Identifier: LGPL-2.1-or-later
"""The metadata services of Alibaba Cloud (tokens alone, "security hardening mode") and of Tencent
Cloud (no tokens) as their documentation describes them, with the one item that tells when a spot
instance is taken away."""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime, timedelta

from tests.cloud.server import NOT_FOUND, Answer, Asked, MetadataServer, status, text

DATA = "/latest/meta-data/"
INSTANCE = "instance-id"


class AlibabaServer(MetadataServer):
    """The service; `items` is what there is. Tokens end by `seconds`, which a test moves on."""

    TIME = "instance/spot/termination-time"
    TOKEN = "/latest/api/token"  # noqa: S105 - a path
    TTL = "x-aliyun-ecs-metadata-token-ttl-seconds"

    def __init__(self, *, listens: bool = True) -> None:
        super().__init__(listens=listens)
        self.items = {INSTANCE: "i-bp67acfmxazb4p2h7k"}
        self.off = False
        self.refuses = 401  # what a token is answered that does not hold
        self.seconds = 0.0
        self.given: list[str] = []  # all tokens that there ever were
        self._ends: dict[str, float] = {}

    def take_away(self, at: datetime) -> None:
        """Decide it."""
        with self.change():
            self.items[self.TIME] = f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def keep(self) -> None:
        """And decide otherwise."""
        with self.change():
            del self.items[self.TIME]

    def forget_tokens(self) -> None:
        """None that was given holds any more."""
        with self.change():
            self._ends.clear()

    def tokens_asked(self) -> int:
        """How many times a token was asked for."""
        return self.paths().count(f"PUT {self.TOKEN}")

    def answer(self, asked: Asked) -> Answer:
        if self.off:
            return status(403)
        if asked.path == self.TOKEN:
            return self._token(asked)
        if asked.method != "GET":
            return status(405)
        token = asked.headers.get("x-aliyun-ecs-metadata-token", "")
        with self.changed:
            if self._ends.get(token, self.seconds) <= self.seconds:
                return status(self.refuses)
            found = self.items.get(asked.path.removeprefix(DATA))
        return NOT_FOUND if found is None else text(found)

    def _token(self, asked: Asked) -> Answer:
        if asked.method != "PUT":
            return status(405)
        wanted = asked.headers.get(self.TTL, "")
        if not wanted.isdecimal() or not 1 <= int(wanted) <= 21600:
            return status(400)
        token = base64.b64encode(secrets.token_bytes(40)).decode()
        with self.change():
            self.given.append(token)
            self._ends[token] = self.seconds + int(wanted)
        return text(token)


class TencentServer(MetadataServer):
    """The service; `items` is what there is."""

    TIME = "spot/termination-time"
    host = "metadata.tencentyun.com"

    def __init__(self, *, listens: bool = True) -> None:
        super().__init__(listens=listens)
        self.items = {INSTANCE: "ins-3g445roi"}

    def take_away(self, at: datetime) -> None:
        """Decide it; the time is China's."""
        with self.change():
            local = at.astimezone(UTC) + timedelta(hours=8)
            self.items[self.TIME] = f"{local:%Y-%m-%d %H:%M:%S}"

    def keep(self) -> None:
        """And decide otherwise."""
        with self.change():
            del self.items[self.TIME]

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("host") != self.host:
            return NOT_FOUND
        if asked.method != "GET":
            return status(405)
        with self.changed:
            found = self.items.get(asked.path.removeprefix(DATA))
        return NOT_FOUND if found is None else text(found)
