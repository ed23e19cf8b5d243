# SPDX-License-Identifier: LGPL-2.1-or-later
"""Webhooks, against a server on this machine."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.webhook import CREDENTIALS_VARIABLE, WebhookError, document, send
from tests.cloud.server import CAPTIVE, Answer, MetadataServer, redirect, status
from tests.waiting import GENEROUS_SECONDS

SECRET = "s3cr3t-t0ken-of-nobody"  # noqa: S105 - of a test
NOTICE = Notice(
    kind=NoticeKind.FREEZE,
    source=ProviderName.AZURE,
    id="602d9444-d2cd-49c7-8624-8643e7171297",
    at=datetime(2026, 11, 22, 14, 4, tzinfo=UTC),
    text="Host server is undergoing maintenance.",
)
BODY = document(NOTICE, 811.26)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "hook").write_text(f"{SECRET}\n")
    return {CREDENTIALS_VARIABLE: str(tmp_path)}


def test_what_is_sent(environ: dict[str, str]) -> None:
    with MetadataServer() as server:
        server.always = status(204)
        send(
            f"{server.url}/notices?room=1",
            BODY,
            credential="hook",
            seconds=GENEROUS_SECONDS,
            environ=environ,
        )
        (asked,) = server.asked
    assert asked.method == "POST"
    assert asked.path == "/notices?room=1"
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert asked.headers["content-type"] == "application/json"
    assert json.loads(asked.body) == {
        "version": 1,
        "kind": "freeze",
        "source": "azure",
        "id": NOTICE.id,
        "deadline": "2026-11-22T14:04:00Z",
        "seconds": 811.3,
        "begun": False,
        "text": NOTICE.text,
    }


def test_without_a_credential_none_is_sent() -> None:
    with MetadataServer() as server:
        server.always = CAPTIVE
        send(f"{server.url}/", BODY, seconds=GENEROUS_SECONDS)
        assert "authorization" not in server.asked[0].headers


def test_redirects_are_not_followed(environ: dict[str, str]) -> None:
    with MetadataServer() as server:
        server.always = redirect(f"{server.elsewhere.url}/stolen", 307)
        with pytest.raises(WebhookError, match=r"answers 307: give the address"):
            send(server.url, BODY, credential="hook", seconds=GENEROUS_SECONDS, environ=environ)
        assert not server.elsewhere.asked


@pytest.mark.parametrize("code", [400, 401, 404, 429, 500, 503])
def test_whoever_does_not_take_it(code: int) -> None:
    with MetadataServer() as server:
        server.always = status(code)
        with pytest.raises(WebhookError, match=f"at 127.0.0.1 answers {code}$"):
            send(server.url, BODY, seconds=GENEROUS_SECONDS)
        assert len(server.asked) == 1  # and is not asked again


@pytest.mark.parametrize(
    "answer",
    [
        Answer(silent=True),
        Answer(raw=b"\xff\xfe no HTTP at all"),
        Answer(delay_seconds=GENEROUS_SECONDS),
    ],
)
def test_no_answer(answer: Answer) -> None:
    with MetadataServer() as server:
        server.always = answer
        with pytest.raises(WebhookError, match="did not answer: "):
            send(server.url, BODY, seconds=0.5)


def test_nobody_is_there() -> None:
    with MetadataServer(listens=False) as server, pytest.raises(WebhookError, match="not answer"):
        send(server.url, BODY, seconds=GENEROUS_SECONDS)


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with MetadataServer() as server:
        server.always = status(200)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, server.elsewhere.url)
        send(server.url, BODY, seconds=GENEROUS_SECONDS)
        assert len(server.asked) == 1
        assert not server.elsewhere.asked


@pytest.mark.parametrize(
    "answer", [status(500), redirect("http://127.0.0.1:1/"), Answer(silent=True), None]
)
def test_the_secret_is_nowhere(
    answer: Answer | None, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with MetadataServer(listens=answer is not None) as server:
        server.always = answer
        with pytest.raises(WebhookError) as caught:
            send(
                f"{server.url}/path-of-a-secret",
                BODY,
                credential="hook",
                seconds=GENEROUS_SECONDS,
                environ=environ,
            )
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    assert SECRET not in shown + caplog.text
    assert "path-of-a-secret" not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no token"),
        (b"two words", "holds no token"),
        (b"one\r\nX-Other: header", "holds no token"),
        (b"\xff\xfe", "holds no token"),
        (b"x" * 20000, "holds no token"),
    ],
)
def test_a_credential_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "hook").write_bytes(content)
    with MetadataServer() as server:
        with pytest.raises(WebhookError, match=words) as caught:
            send(
                server.url,
                BODY,
                credential="hook",
                seconds=GENEROUS_SECONDS,
                environ={CREDENTIALS_VARIABLE: str(tmp_path)},
            )
        assert not server.asked
    assert content.decode(errors="replace") not in str(caught.value) or not content


def test_no_credentials_at_all(tmp_path: Path) -> None:
    cure = "add LoadCredential=hook:FILE in a drop-in of hibprep.service"
    with pytest.raises(WebhookError, match=f"there are no credentials.*{cure}"):
        send("http://127.0.0.1:1", BODY, credential="hook", seconds=1, environ={})
    with pytest.raises(WebhookError, match=f"credential hook: No such file.*{cure}"):
        send(
            "http://127.0.0.1:1",
            BODY,
            credential="hook",
            seconds=1,
            environ={CREDENTIALS_VARIABLE: str(tmp_path)},
        )


def test_what_is_not_known_is_null() -> None:
    found = document(Notice(kind=NoticeKind.STOP, source=ProviderName.GCP, id="p"), None)
    assert found["deadline"] is None
    assert found["seconds"] is None
