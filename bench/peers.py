# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other people's services that wait, as hibprep's daemon does, for memory to run out or for nobody
to be there. What they take is a measure of what ours may.

Each runs as its package runs it, but for what it would do: in these configurations nothing is
killed, and nothing suspended.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.load import CannotMeasure
from bench.services import watch_service
from bench.usage import Watched

_NOHANG_DEFAULTS = Path("/usr/share/nohang/nohang.conf")
# Available memory is never 0, and no process is that bad.
HARMLESS_NOHANG = {
    "soft_threshold_min_mem": "0 %",
    "soft_threshold_min_swap": "0 %",
    "hard_threshold_min_mem": "0 %",
    "hard_threshold_min_swap": "0 %",
    "zram_checking_enabled": "False",
    "psi_checking_enabled": "False",
    "low_memory_warnings_enabled": "False",
    "min_badness": "1000000",
}
# The interval of its example; `true` changes nothing, were it ever to be called. The lock and the
# note of the last wake-up are the machine's elsewhere.
_AUTOSUSPEND = """\
[general]
interval = 30
idle_time = 604800
suspend_cmd = true
wakeup_cmd = true
woke_up_file = {folder}/woke-up
lock_file = {folder}/lock
[check.Load]
enabled = true
threshold = 2.5
[check.Users]
enabled = true
name = .*
terminal = .*
host = .*
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A service of Debian's. `arguments` are those that make it wait and do nothing else; what they
    name is written in the folder that it is given."""

    name: str
    package: str
    arguments: Callable[[Path], list[str]]


def configured(defaults: str, wanted: Mapping[str, str]) -> str:
    """The configuration of nohang with other values. CannotMeasure where one cannot be set: a
    nohang that knows it by another name might kill."""
    text = defaults
    for key, value in wanted.items():
        text, found = re.subn(rf"(?m)^{key}\s*=.*$", f"{key} = {value}", text)
        if found != 1:
            raise CannotMeasure(f"nohang: {_NOHANG_DEFAULTS} has no {key}: it may do harm")
    return text


def _nohang(folder: Path) -> list[str]:
    try:
        defaults = _NOHANG_DEFAULTS.read_text()
    except OSError as error:
        raise CannotMeasure(f"nohang: {_NOHANG_DEFAULTS}: {error.strerror}") from error
    path = folder / "nohang.conf"
    path.write_text(configured(defaults, HARMLESS_NOHANG))
    return ["--monitor", "--config", str(path)]


def _autosuspend(folder: Path) -> list[str]:
    path = folder / "autosuspend.conf"
    path.write_text(_AUTOSUSPEND.format(folder=folder))
    return ["--config", str(path), "daemon"]


PEERS = (
    Peer("nohang", "nohang", _nohang),
    Peer("autosuspend", "autosuspend", _autosuspend),
    # an hour between its reports is what Debian's package has
    Peer("earlyoom", "earlyoom", lambda _: ["--dryrun", "-r", "3600"]),
    # it needs a Wayland compositor, and says so where there is none
    Peer("swayidle", "swayidle", lambda _: ["-C", os.devnull, "timeout", "604800", "true"]),
)


def program_of(peer: Peer) -> str:
    """Where it is; CannotMeasure with what would bring it when it is not."""
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    found = shutil.which(peer.name, path=places)
    if found is None:
        raise CannotMeasure(
            f"{peer.name}: not installed: "
            f"apt-get install --no-install-recommends {peer.package}, and stop its service"
        )
    return found


def watch_peers(
    folder: Path,
    tell: Callable[[str], None],
    *,
    settle_seconds: float,
    seconds: float,
    peers: Iterable[Peer] = PEERS,
) -> tuple[list[Watched], list[str]]:
    """All that there are, one after the other, and why the others could not be watched."""
    found, absent = [], []
    for peer in peers:
        try:
            program = program_of(peer)
            tell(peer.name)
            with tempfile.TemporaryDirectory(prefix=f"{peer.name}-", dir=folder) as own:
                argv = [program, *peer.arguments(Path(own))]
                found.append(
                    watch_service(
                        peer.name, argv, Path(own), settle_seconds=settle_seconds, seconds=seconds
                    )
                )
        except CannotMeasure as error:
            absent.append(str(error))
    return found, absent
