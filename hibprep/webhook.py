# SPDX-License-Identifier: LGPL-2.1-or-later
"""A notice sent on to an address of the administrator's, by HTTP.

Blocking, for a thread. No proxy, no redirect, and no word of the address beyond its host in what is
told: many of these addresses are secrets themselves. A token is read when it is sent, from where
systemd puts credentials (systemd.exec(5), LoadCredential=), and is in no message and in no other
place of the memory than the request.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from hibprep.errors import HibprepError
from hibprep.notices import Notice

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_MOST_TOKEN_BYTES = 16 << 10
_TOKEN = re.compile(r"[!-~]+", re.ASCII)  # else it could be more than one header
_DONE = range(200, 300)
_REDIRECTS = range(300, 400)


class WebhookError(HibprepError):
    """It was not sent, or was not taken."""


def document(notice: Notice, left_seconds: float | None) -> dict[str, object]:
    """What is sent, as JSON."""
    return {
        "version": 1,
        "kind": notice.kind.value,
        "source": notice.source.value,
        "id": notice.id,
        "deadline": None if notice.at is None else notice.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": None if left_seconds is None else round(max(0.0, left_seconds), 1),
        "begun": notice.begun,
        "text": notice.text,
    }


def send(
    url: str,
    body: Mapping[str, object],
    *,
    credential: str = "",
    seconds: float,
    environ: Mapping[str, str] | None = None,
) -> None:
    """POST `body` to `url` within `seconds`. Raises WebhookError."""
    until = time.monotonic() + seconds
    headers = {"Content-Type": "application/json", "User-Agent": "hibprep"}
    if credential:
        token = _token(credential, os.environ if environ is None else environ)
        headers["Authorization"] = f"Bearer {token}"
    parts = urlsplit(url)
    host = f"the webhook at {parts.hostname}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # urlopen of a pool and not of urllib3.PoolManager, which knows how to follow redirects
    pool = urllib3.connection_from_url(f"{parts.scheme}://{parts.netloc}", retries=False)
    try:
        response = pool.urlopen(
            "POST",
            target,
            body=json.dumps(body).encode(),
            headers=headers,
            redirect=False,
            preload_content=False,
            timeout=urllib3.Timeout(total=max(0.001, until - time.monotonic())),
        )
        status = response.status
        response.close()  # whatever else it says is of no interest
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # nothing of the error's own text, which may have the address in it
        raise WebhookError(f"{host} did not answer: {type(error).__name__}") from None
    finally:
        pool.close()
    if status in _REDIRECTS:
        raise WebhookError(f"{host} answers {status}", "give the address that it leads to")
    if status not in _DONE:
        raise WebhookError(f"{host} answers {status}")


def _token(credential: str, environ: Mapping[str, str]) -> str:
    directory = environ.get(CREDENTIALS_VARIABLE)
    if not directory:
        raise WebhookError(
            f"there are no credentials, and {credential} is wanted",
            f"add LoadCredential={credential}:FILE in a drop-in of hibprep.service",
        )
    try:
        with (Path(directory) / credential).open("rb") as file:
            text = file.read(_MOST_TOKEN_BYTES + 1).decode().strip()
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise WebhookError(
            f"credential {credential}: {error.strerror}",
            f"add LoadCredential={credential}:FILE in a drop-in of hibprep.service",
        ) from None
    if not _TOKEN.fullmatch(text) or len(text) > _MOST_TOKEN_BYTES:
        raise WebhookError(f"credential {credential} holds no token", "one word, and nothing else")
    return text
