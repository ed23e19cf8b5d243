# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook of libvirt reads of a description and tells: on anything that may come."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hibprep.guesthook import Domain, document_of, read_domain
from hibprep.signals.demand import HOST, UUID, parse

ONE = "6f0c2a8e-6d0c-4c6a-9f1e-0b5a4f1d2c3b"


def domain(xml: str | bytes, size: int = 1 << 16) -> Domain:
    data = xml.encode(errors="surrogatepass") if isinstance(xml, str) else xml
    found = Domain()
    for at in range(0, len(data), size):
        found.feed(data[at : at + size])
    return found


def seen(found: Domain) -> tuple[str, bool, str]:
    return found.uuid, found.prepared, found.source


PREPARED = "<p:prepared xmlns:p='urn:hibprep:guest:1'/>"
SOURCE = "<source xmlns='urn:hibprep:source:1' host='a.example'/>"


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (f"<domain><uuid>{ONE}</uuid></domain>", (ONE, False, "")),
        (f"<domain><uuid>\n {ONE.upper()} </uuid>", (ONE, False, "")),
        (f"<domain><metadata>{PREPARED}{SOURCE}</metadata></domain>", ("", True, "a.example")),
        ("<domain><metadata><prepared/></metadata></domain>", ("", False, "")),  # no namespace
        ("<domain><metadata><prepared xmlns='urn:other'/></metadata></domain>", ("", False, "")),
        (f"<domain><metadata><x>{PREPARED}</x></metadata></domain>", ("", False, "")),
        (f"<domain>{PREPARED}</domain>", ("", False, "")),
        (f"<network><metadata>{PREPARED}</metadata></network>", ("", False, "")),
        (f"<domain><devices/><metadata>{PREPARED}</metadata></domain>", ("", False, "")),
        (f"<domain><a><uuid>{ONE}</uuid></a></domain>", ("", False, "")),
        (f"<domain><uuid>{ONE}</uuid><metadata>{PREPARED}</uuid>", (ONE, True, "")),
        (f"<!DOCTYPE domain><domain><uuid>{ONE}</uuid></domain>", ("", False, "")),
        ("", ("", False, "")),
    ],
)
def test_what_is_found(xml: str, expected: tuple[str, bool, str]) -> None:
    assert seen(domain(xml)) == expected
    assert seen(domain(xml, 1)) == expected


def test_entities_do_not_grow() -> None:
    lines = [f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12)]
    xml = f"<!DOCTYPE d [<!ENTITY e0 'x'>{''.join(lines)}]><domain><uuid>&e11;</uuid></domain>"
    assert seen(domain(xml)) == ("", False, "")


names = st.text(max_size=300)
uuids = st.one_of(st.just(ONE), st.uuids().map(str), st.text(max_size=40))
hosts = st.one_of(st.just("a.example"), st.just("fe80::1"), st.text(max_size=300))
XML_TEXT = st.characters(min_codepoint=32, codec="utf-8", max_codepoint=0xFFFD)


@given(st.text(XML_TEXT, max_size=40), st.text(XML_TEXT, max_size=40), st.booleans(), st.data())
def test_it_does_not_depend_on_how_it_comes(
    uuid: str,
    host: str,
    prepared: bool,  # noqa: FBT001 - drawn
    data: st.DataObject,
) -> None:
    source = f"<s:source xmlns:s='urn:hibprep:source:1' host={quoteattr(host)}/>"
    xml = (
        f"<domain type='kvm'><name>x</name><uuid>{escape(uuid)}</uuid><title>t</title>"
        f"<metadata><o:a xmlns:o='urn:o'>{'<o:b/>' * 3}</o:a>{PREPARED if prepared else ''}{source}"
        "</metadata><memory>1</memory><devices><disk/></devices></domain>"
    )
    whole = domain(xml)
    assert (whole.prepared, whole.source) == (prepared, host)
    assert whole.uuid == uuid.strip().lower()
    assert seen(domain(xml, data.draw(st.integers(1, 50)))) == seen(whole)


@given(st.binary(max_size=200))
@example(b"<domain><uuid>" + b"x" * 5000)
def test_anything_at_all(data: bytes) -> None:
    found = domain(data)
    assert len(found.uuid) <= 256
    assert isinstance(found.prepared, bool)


@given(
    names,
    st.sampled_from(["migrate", "restore", "started", "reconnect", "release"]),
    names,
    st.tuples(uuids, hosts, st.booleans()),
)
@example("a\udcffb", "release", "-", (ONE, "", True))
@example("", "release", "\n", ("", "-oProxyCommand=x", False))
def test_the_daemon_understands_whatever_is_told(
    name: str, operation: str, extra: str, tells: tuple[str, str, bool]
) -> None:
    found = Domain()
    uuid, host, prepared = tells
    found.uuid, found.source, found.prepared = uuid, host, prepared
    document = document_of(name, operation, extra, found)
    demand = parse(json.dumps({"v": 1} | document).encode())
    assert demand.guest is not None
    assert demand.guest.operation == operation
    assert demand.guest.prepared == prepared
    if name and name.isprintable() and len(name) <= 255:
        assert demand.guest.name == name
    assert demand.guest.uuid == (uuid if UUID.fullmatch(uuid) else "")
    assert demand.guest.source == (host if HOST.fullmatch(host) else "")


# --- reading --------------------------------------------------------------------------------------


def test_all_of_it_is_read() -> None:
    read, write = os.pipe()
    data = f"<domain><uuid>{ONE}</uuid><devices/>{'x' * (1 << 20)}".encode()

    def writer() -> None:
        with open(write, "wb") as stream:  # noqa: PTH123
            stream.write(data)

    thread = threading.Thread(target=writer)
    thread.start()
    assert read_domain(read).uuid == ONE
    thread.join()
    assert os.read(read, 1) == b""
    os.close(read)


def test_what_is_never_closed_is_not_waited_for() -> None:
    read, write = os.pipe()
    os.write(write, f"<domain><uuid>{ONE}</uuid>".encode())
    assert read_domain(read, 0.02).uuid == ONE
    os.close(write)
    os.close(read)
    assert read_domain(read).uuid == ""  # closed


def test_a_file_and_what_has_no_end(tmp_path: Path) -> None:
    file = tmp_path / "domain.xml"
    file.write_text(f"<domain><uuid>{ONE}</uuid></domain>")
    with file.open("rb") as stream:
        assert read_domain(stream.fileno()).uuid == ONE
    with open("/dev/zero", "rb") as zero:  # noqa: PTH123
        assert read_domain(zero.fileno(), 30.0).uuid == ""
