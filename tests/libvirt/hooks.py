# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hooks of a host of the rig, run by its real libvirtd."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hibprep
from bench.lab.rig import own
from bench.lab.rig_host import RigHost
from hibprep import guesthook
from tests.waiting import GENEROUS_SECONDS

SCRIPT = Path(__file__).parents[2] / "hooks/libvirt/qemu"
_PARTS = ("__init__.py", "guesthook.py", "hookclient.py")
# who is emulated has both processors, and a daemon that works may be slow to answer
_PATIENCE = f"ANSWER_SECONDS = {GENEROUS_SECONDS}\n"
_IMPATIENCE = f"ANSWER_SECONDS = {guesthook.ANSWER_SECONDS}\n"


@contextmanager
def hooked(host: RigHost, hooks: dict[str, str]) -> Iterator[None]:
    """In the block the host has these in `qemu.d`, by name; libvirtd is started anew, since it
    looks for hooks when it starts. Guests go on meanwhile."""
    folder = host.hooks / "qemu.d"
    folder.mkdir()
    try:
        for name, text in hooks.items():
            path = folder / name
            path.write_text(text)
            path.chmod(0o755)
        restarted(host)
        yield
    finally:
        shutil.rmtree(folder)
        restarted(host)


def restarted(host: RigHost) -> None:
    """Its libvirtd, started anew."""
    if host.running:
        host.kill_daemon()
    host.start()


def ours(host: RigHost, control: Path) -> str:
    """The hook as `hibprep install` writes it, for a daemon that listens there."""
    library = host.folder / "library/hibprep"
    if not library.exists():
        library.mkdir(parents=True)
        for name in _PARTS:
            text = (Path(hibprep.__file__).parent / name).read_text()
            assert name != "guesthook.py" or _IMPATIENCE in text
            library.joinpath(name).write_text(text.replace(_IMPATIENCE, _PATIENCE))
    text = SCRIPT.read_text()
    for name, value in {"LIBRARY": library, "CONTROL": control}.items():
        old = next(line for line in text.splitlines() if line.startswith(f"{name}="))
        text = text.replace(old, f"{name}={value}")
    return text


class Witness:
    """Two more hooks, one that runs before ours and one after it, which note what they see."""

    def __init__(self, host: RigHost) -> None:
        self._notes = host.folder / "hooks.log"
        self._notes.write_text("")
        own(self._notes)

    @property
    def hooks(self) -> dict[str, str]:
        """By name: libvirt runs them in the order of these."""
        return {"00-before": self._script("before"), "99-after": self._script("after")}

    def forget(self) -> None:
        """What was seen so far."""
        self._notes.write_text("")

    def calls(self, guest: str) -> list[str]:
        """The operations of that guest for which all hooks have ended, in order. The hook after
        ours must have been called as the one before it, with the same description of the guest."""
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        found = [line for line in lines if line[1] == guest]
        assert [line[0] for line in found] == [
            ("before", "after")[n % 2] for n in range(len(found))
        ]
        for before, after in zip(found[::2], found[1::2], strict=False):
            assert before[1:] == after[1:], found
        return [line[2] for line in found[1::2]]

    def _script(self, when: str) -> str:
        # cksum: of the description, which comes on stdin
        return (
            f'#!/bin/sh\necho "{when} $1 $2 $3 $4 $(cksum | tr -s " " _)" >>{self._notes}\nexit 0\n'
        )


def refusing(guest: str, words: str) -> str:
    """A hook of somebody else's that lets one guest not come."""
    return (
        "#!/bin/sh\n"
        "cat >/dev/null\n"
        f'[ "$1 $2" = "{guest} migrate" ] || exit 0\n'
        f'echo "{words}" >&2\n'
        "exit 1\n"
    )
