# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compute Engine's metadata server as its documentation describes it: a header in every request and
every answer, versions of values, and requests that are kept until a value has another one."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import parse_qs, urlsplit

from tests.cloud.server import Answer, Asked, MetadataServer

INSTANCE = "/computeMetadata/v1/instance/"
PREEMPTED = "preempted"
MAINTENANCE = "maintenance-event"
FLAVOR = {"Metadata-Flavor": "Google"}
MIGRATE = "MIGRATE_ON_HOST_MAINTENANCE"
TERMINATE = "TERMINATE_ON_HOST_MAINTENANCE"


def version(value: str) -> str:
    """The ETag of a value: a hash of it, so that it is the same for the same value."""
    return hashlib.sha256(value.encode()).hexdigest()[:16]


class GcpServer(MetadataServer):
    """The server; `values` is what there is."""

    host = "metadata.google.internal"

    def __init__(self, *, listens: bool = True) -> None:
        super().__init__(listens=listens)
        self.values = {PREEMPTED: "FALSE", MAINTENANCE: "NONE"}
        self.scheduling: dict[str, object] = {
            "automaticRestart": "FALSE",
            "onHostMaintenance": "TERMINATE",
            "preemptible": "TRUE",
        }
        self.waits = True  # whether it knows wait_for_change
        self.longest_wait_seconds = 3600.0

    def tell(self, key: str, value: str) -> None:
        """Another value; whoever waits for it is answered."""
        with self.change():
            self.values[key] = value

    def waiting(self) -> list[str]:
        """The values that were waited for, in order."""
        return [
            urlsplit(each.path).path.removeprefix(INSTANCE)
            for each in self.asked
            if "wait_for_change=true" in each.path
        ]

    def answer(self, asked: Asked) -> Answer:
        flavored = asked.headers.get("metadata-flavor") == "Google"
        if not flavored or "x-forwarded-for" in asked.headers:
            return self._page(403)
        parts = urlsplit(asked.path)
        key = parts.path.removeprefix(INSTANCE)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if key == "scheduling/" and query.get("recursive") == "true":
            return self._value(json.dumps(self.scheduling), "application/json")
        if asked.method != "GET" or key not in self.values:
            return self._page(404)
        if self.waits and query.get("wait_for_change") == "true":
            self._wait(key, query)
        with self.changed:
            return self._value(self.values[key], "application/text")

    def _wait(self, key: str, query: dict[str, str]) -> None:
        with self.changed:
            known = query.get("last_etag", version(self.values[key]))
        seconds = min(float(query.get("timeout_sec", "3600")), self.longest_wait_seconds)
        self.until(lambda: version(self.values[key]) != known, seconds)

    def _value(self, value: str, kind: str) -> Answer:
        headers = {"Content-Type": kind, "ETag": version(value)} | FLAVOR
        return Answer(body=value.encode(), headers=headers)

    def _page(self, code: int) -> Answer:
        page = f"<!DOCTYPE html><html lang=en><title>Error {code}</title><p>{code}.</html>"
        headers = {"Content-Type": "text/html"} | FLAVOR
        return Answer(status=code, body=page.encode(), headers=headers)
