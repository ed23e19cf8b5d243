# SPDX-License-Identifier: LGPL-2.1-or-later
"""What libvirt's hook of the QEMU driver runs: it tells the daemon what happens to a guest.

    /usr/bin/python3 -BIS guesthook.py SOCKET GUEST OPERATION SUB-OPERATION EXTRA < domain.xml

Whoever starts, restores or migrates the guest waits for this. So little is imported, the standard
library alone, of Python 3.7 or later; every wait is bounded; and it answers as soon with no daemon,
or with one that hangs, as with one that works. libvirt is never called, since it waits for the hook
itself and would not answer (https://libvirt.org/hooks.html), and nothing is printed on stdout,
which libvirt takes for the description of the guest.

Exit code 0, or `REFUSED`.
"""

from __future__ import annotations

import os
import select
import sys
import time

REFUSED = 3  # no code of Python's own, nor of a shell's
ANSWER_SECONDS = 0.1
MOST_SECONDS = 310.0  # for a migration that the administrator wants to wait
SILENCE_SECONDS = 1.0  # libvirt writes all of it at once; a terminal never would
XML_SECONDS = 10.0
LARGEST_XML_BYTES = 16 << 20
MOST_PARSED_BYTES = 256 << 10  # what others keep in the metadata may be more

_CHUNK_BYTES = 1 << 16
_LONGEST_NAME = 255
_RECORD = "urn:hibprep:guest:1 prepared"
_SOURCE = "urn:hibprep:source:1 source"
_MOST_CHARACTERS = 256  # of a UUID, with room for blanks
# as hibprep.signals.demand has them, which needs more than the standard library
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_HOST = "[0-9A-Za-z][0-9A-Za-z._:-]{0,252}"


class Domain:
    """What is found in a domain's description, as far as that can be read."""

    def __init__(self) -> None:
        from xml.parsers import expat  # noqa: PLC0415 - not before it is needed

        self.uuid = ""
        self.prepared = False
        self.source = ""
        self._text = ""
        self._path: list[str] = []
        self._done = False
        self._error: type[Exception] = expat.ExpatError
        self._parser = expat.ParserCreate(None, " ")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype

    def feed(self, data: bytes) -> None:
        """More of it. What comes after what we want to know is not even parsed."""
        if self._done:
            return
        try:
            self._parser.Parse(data, False)  # noqa: FBT003 - expat's own signature
        except (self._error, ValueError):
            self._done = True

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        self._text = ""
        if self._path[:2] == ["domain", "metadata"]:
            if self._path[2:] == [_RECORD]:
                self.prepared = True
            elif self._path[2:] == [_SOURCE]:
                self.source = attributes.get("host", "")
        elif self._path == ["domain", "devices"]:
            raise ValueError("that is enough: libvirt writes all of the above before it")

    def _end(self, _name: str) -> None:
        if self._path == ["domain", "uuid"]:
            self.uuid = self._text.strip().lower()
        del self._path[-1:]

    def _characters(self, data: str) -> None:
        if self._path == ["domain", "uuid"]:
            self._text = (self._text + data)[:_MOST_CHARACTERS]

    def _doctype(self, *_: object) -> None:
        raise ValueError("libvirt writes none, and its entities may grow without bound")


def read_domain(descriptor: int, silence_seconds: float = SILENCE_SECONDS) -> Domain:
    """All of it is read, for whoever writes it, unless nothing comes for so long; it may be closed
    as well. What stands in the beginning is looked at: the rest costs no time."""
    domain = Domain()
    deadline = time.monotonic() + XML_SECONDS
    size = 0
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while size < LARGEST_XML_BYTES:
        left = min(silence_seconds, deadline - time.monotonic())
        if left <= 0 or not poll.poll(left * 1000):
            break
        try:
            part = os.read(descriptor, _CHUNK_BYTES)
        except OSError:
            break  # closed
        if not part:
            break
        if size < MOST_PARSED_BYTES:
            domain.feed(part)
        size += len(part)
    return domain


def document_of(guest: str, operation: str, extra: str, domain: Domain) -> dict[str, object]:
    """What the daemon is told; nothing in it that it would refuse all of it for."""
    import re  # noqa: PLC0415 - which json imports in any case

    name = guest[:_LONGEST_NAME]
    known = len(extra) <= _LONGEST_NAME and extra.isprintable() and extra != "-"
    return {
        "do": "guest",
        "who": "libvirt",
        "operation": operation,
        "name": name if name and name.isprintable() else "?",
        "uuid": domain.uuid if re.fullmatch(_UUID, domain.uuid) else "",
        "reason": extra if known else "",
        "prepared": domain.prepared,
        "source": domain.source if re.fullmatch(_HOST, domain.source) else "",
    }


def main(arguments: list[str]) -> int:
    """One call of libvirt; the exit code."""
    path, guest, operation, _, extra = [*arguments, "", "", "", "", ""][:5]
    domain = read_domain(0)
    # of another user's libvirt the directory of the socket is closed, which looks the same
    if not os.path.exists(path):  # noqa: PTH110 - pathlib takes longer
        return 0
    from hibprep import hookclient  # noqa: PLC0415 - with nothing to tell nothing is imported

    document = document_of(guest, operation, extra, domain)
    try:
        answer = hookclient.request_and_wait(
            document, path=path, seconds=ANSWER_SECONDS, most_seconds=MOST_SECONDS
        )
    except hookclient.NoDaemon:
        return 0
    except hookclient.DaemonError as error:
        _say(str(error))
        return 0
    refused = answer.get("refused")
    if operation == "migrate" and isinstance(refused, str) and refused:
        _say(refused)
        return REFUSED
    return 0


def _say(words: str) -> None:
    # not print: what could not be written would be tried once more at the end, and then be an error
    try:
        os.write(2, f"hibprep: {words}\n".encode(errors="replace"))
    except OSError:
        return  # a closed stderr, or a full disk behind it: there is nobody to tell


def run(arguments: list[str]) -> None:
    """`main`, and the end of this process with its exit code and no other, whatever happens."""
    code = 0
    try:
        code = main(arguments)
    except BaseException as error:  # noqa: BLE001 - nothing of this keeps a guest from running
        _say(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


if __name__ == "__main__":
    # at the end: nothing of it may hide a module of the standard library
    here = os.path.abspath(__file__)  # noqa: PTH100 - pathlib takes longer than all of this
    sys.path.append(os.path.dirname(os.path.dirname(here)))  # noqa: PTH120 - as above
    run(sys.argv[1:])
