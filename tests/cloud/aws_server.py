# SPDX-License-Identifier: LGPL-2.1-or-later
"""EC2's instance metadata service as the Amazon EC2 User Guide describes it: tokens (IMDSv2 alone),
and items that are not there (404, with a page in XHTML) until there is something to tell."""

from __future__ import annotations

import base64
import json
import secrets
from datetime import UTC, datetime

from tests.cloud.server import Answer, Asked, MetadataServer, json_text, status, text

DATA = "/latest/meta-data/"
TOKEN = "/latest/api/token"  # noqa: S105 - a path
ACTION = "spot/instance-action"
TERMINATION = "spot/termination-time"
REBALANCE = "events/recommendations/rebalance"
SCHEDULED = "events/maintenance/scheduled"
TARGET = "autoscaling/target-lifecycle-state"
LIFE_CYCLE = "instance-life-cycle"
CONFIGURED = "hibernation/configured"

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
XHTML_404 = Answer(
    status=404,
    headers={"Content-Type": "text/html"},
    body=b"""<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
 "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>404 - Not Found</title></head>
<body><h1>404 - Not Found</h1></body></html>
""",
)


def utc(at: datetime) -> str:
    """As the items of spot instances have a time."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def in_words(at: datetime) -> str:
    """As scheduled events have it."""
    return f"{at.astimezone(UTC):%d %b %Y %H:%M:%S} GMT"


def event(at: datetime, **fields: str) -> dict[str, str]:
    """A scheduled event, active unless it is said otherwise."""
    return {
        "NotBefore": in_words(at),
        "Code": "system-reboot",
        "Description": "scheduled reboot",
        "EventId": "instance-event-0d59937288b749b32",
        "NotAfter": in_words(at),
        "State": "active",
    } | fields


class AwsServer(MetadataServer):
    """The service; `items` is what there is. Tokens end by `seconds`, which a test moves on."""

    def __init__(self, *, listens: bool = True, life_cycle: str = "spot") -> None:
        super().__init__(listens=listens)
        self.items: dict[str, Answer] = {
            LIFE_CYCLE: text(life_cycle),
            CONFIGURED: text("true"),
            SCHEDULED: json_text("[]"),
        }
        self.off = False
        self.seconds = 0.0
        self.longest_seconds = 21600
        self.given: list[str] = []  # all tokens that there ever were
        self._ends: dict[str, float] = {}

    # --- what befalls the instance ------------------------------------------------------------

    def interrupt(self, action: str, at: datetime) -> None:
        """Mark it; a termination is told of twice."""
        document = json.dumps({"action": action, "time": utc(at)})
        with self.change():
            self.items[ACTION] = json_text(document)
            if action == "terminate":
                self.items[TERMINATION] = text(utc(at))

    def schedule(self, *events: dict[str, str]) -> None:
        """These events and no others."""
        with self.change():
            self.items[SCHEDULED] = json_text(json.dumps(events, indent=2))

    def tell(self, item: str, answer: Answer) -> None:
        """Any item."""
        with self.change():
            self.items[item] = answer

    def withdraw(self, *items: str) -> None:
        """They are not there any more."""
        with self.change():
            for item in items:
                del self.items[item]

    def forget_tokens(self) -> None:
        """As after a move to another host: none that was given holds any more."""
        with self.change():
            self._ends.clear()

    # --- what it answers ----------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        if self.off or "x-forwarded-for" in asked.headers:
            return status(403)
        if asked.path == TOKEN:
            return self._token(asked)
        if asked.method != "GET":
            return status(405)
        if not self._is_known(asked.headers.get("x-aws-ec2-metadata-token", "")):
            return status(401)
        if not asked.path.startswith(DATA):
            return XHTML_404
        return self.items.get(asked.path.removeprefix(DATA), XHTML_404)

    def tokens_asked(self) -> int:
        """How many times a token was asked for."""
        return self.paths().count(f"PUT {TOKEN}")

    def _token(self, asked: Asked) -> Answer:
        if asked.method != "PUT":
            return status(405)
        wanted = asked.headers.get(TTL.lower(), "")
        if not wanted.isdecimal() or not 1 <= int(wanted) <= self.longest_seconds:
            return status(400)
        token = base64.b64encode(secrets.token_bytes(40)).decode()
        with self.change():
            self.given.append(token)
            self._ends[token] = self.seconds + int(wanted)
        return text(token, **{TTL: wanted})

    def _is_known(self, token: str) -> bool:
        with self.changed:
            return self._ends.get(token, self.seconds) > self.seconds
