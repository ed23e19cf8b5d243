# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rig's parts that need neither libvirtd nor QEMU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.lab import host, keeper, roots
from bench.lab.domain import CHANNEL, LAB_CHANNEL, Description, channel_path, is_connected
from bench.lab.errors import LabError
from bench.lab.rig_host import daemon_configuration
from tests.processes import ended
from tests.waiting import until

# --- the keeper -----------------------------------------------------------------------------------

# Starts another one that is nobody's child, as libvirtd starts QEMU, and says who that is.
_DAEMONIZE = (
    "import os, subprocess, sys\n"
    "orphan = subprocess.Popen(['setsid', 'sleep', '600'])\n"
    "open(sys.argv[1], 'w').write(f'{orphan.pid}\\n')\n"
    "os._exit(0)\n"
)


class Kept:
    """A keeper, and the other end of its socket."""

    def __init__(self) -> None:
        self.connection, far = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, f"--fd={far.fileno()}"],
            pass_fds=[far.fileno()],
        )
        far.close()
        self.connection.settimeout(30)

    def start(self, *argv: str) -> int:
        message = {"arguments": ["--", *argv], "environment": dict(os.environ)}
        self.connection.sendall(json.dumps(message).encode() + b"\n")
        return int(json.loads(self.connection.recv(4096))["pid"])


@pytest.fixture
def kept() -> Iterator[Kept]:
    found = Kept()
    yield found
    found.connection.close()
    assert found.process.wait(30) == 0


def orphan_of(kept: Kept, tmp_path: Path) -> int:
    path = tmp_path / "orphan"
    parent = kept.start(sys.executable, "-c", _DAEMONIZE, str(path))
    until(lambda: ended(parent) and path.exists(), "the parent is gone")
    return int(path.read_text())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_program_without_a_parent_is_the_keepers(kept: Kept, tmp_path: Path) -> None:
    orphan = orphan_of(kept, tmp_path)
    assert not ended(orphan)
    until(lambda: parent_of(orphan) == kept.process.pid, "the keeper is its parent")


@pytest.mark.parametrize("how", ["closed", "told"])
def test_all_end_with_the_keeper(kept: Kept, tmp_path: Path, how: str) -> None:
    pids = [kept.start("sleep", "600"), orphan_of(kept, tmp_path)]
    if how == "closed":
        kept.connection.close()
    else:
        kept.process.terminate()
    kept.process.wait(30)
    assert all(ended(pid) for pid in pids)


def test_ending_one_program_ends_no_other(kept: Kept) -> None:
    first, second = (kept.start("sleep", "600") for _ in range(2))
    os.kill(first, signal.SIGKILL)
    until(lambda: ended(first), "it has ended")
    assert not ended(second)
    assert kept.start("true")  # and it still takes orders


@pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")
def test_a_folder_is_seen_at_another_place(kept: Kept, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    binds = [f"--bind={path}" for path in ("/usr", "/lib", "/lib64", "/bin") if Path(path).exists()]
    binds += ["--bind-at", str(seen), "/etc/libvirt/hooks"]
    message = {
        "arguments": [
            f"--root={tmp_path / 'root'}",
            *binds,
            "--",
            "touch",
            "/etc/libvirt/hooks/it",
        ],
        "environment": {"PATH": "/usr/bin:/bin"},
    }
    kept.connection.sendall(json.dumps(message).encode() + b"\n")
    until((seen / "it").exists, "it is there")
    assert list((tmp_path / "root/etc/libvirt/hooks").iterdir()) == []


# --- what libvirt is told -------------------------------------------------------------------------


def description(**changes: object) -> Description:
    values: dict[str, object] = {
        "name": "guest & co",
        "uuid": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "emulator": "/usr/bin/qemu-system-x86_64",
        "kernel": Path("/k"),
        "initrd": Path("/i"),
        "root_disk": Path("/disks/root.img"),
        "console": Path("/console"),
    }
    return Description(**{**values, **changes})  # type: ignore[arg-type]


def test_the_description_is_xml_with_all_ports() -> None:
    root = ET.fromstring(description().xml())  # noqa: S314 - written by ourselves
    assert root.findtext("name") == "guest & co"
    assert int(root.findtext("memory") or 0) == 640 << 10
    ports = {each.get("name") for each in root.iter("target")}
    assert {LAB_CHANNEL, CHANNEL, "org.qemu.guest_agent.0"} <= ports
    assert len(root.findall("devices/disk")) == 1


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, ("virtio", "off", "off")),
        ({"reporting": True}, ("virtio", "on", "off")),
        ({"autodeflate": True}, ("virtio", "off", "on")),
        ({"balloon": False}, ("none", None, None)),
    ],
)
def test_the_balloon_device(changes: dict[str, object], wanted: tuple[str | None, ...]) -> None:
    root = ET.fromstring(description(**changes).xml())  # noqa: S314 - written by ourselves
    (balloon,) = root.iter("memballoon")
    names = ("model", "freePageReporting", "autodeflate")
    assert tuple(balloon.get(name) for name in names) == wanted


def test_swap_is_a_second_disk() -> None:
    root = ET.fromstring(description(swap_disk=Path("/disks/swap.img")).xml())  # noqa: S314
    sources = [each.get("file") for each in root.iterfind("devices/disk/source")]
    assert sources == ["/disks/root.img", "/disks/swap.img"]


_LIVE = """<domain><devices>
<channel type='unix'><source mode='bind' path='/run/lab.sock'/>
  <target type='virtio' name='org.hibprep.lab' state='connected'/></channel>
<channel type='unix'><target type='virtio' name='org.hibprep.0' state='disconnected'/></channel>
</devices></domain>"""


def test_a_port_is_found_in_the_live_description() -> None:
    assert channel_path(_LIVE, LAB_CHANNEL) == Path("/run/lab.sock")
    assert is_connected(_LIVE, LAB_CHANNEL)
    assert not is_connected(_LIVE, CHANNEL)
    with pytest.raises(LabError, match="does not run"):
        channel_path(_LIVE, CHANNEL)
    with pytest.raises(LabError, match=r"no channel org\.example"):
        channel_path(_LIVE, "org.example")


def test_each_host_has_its_own_uuid_and_the_shared_folder() -> None:
    shared = [Path("/tmp/a b")]  # noqa: S108 - only text
    texts = daemon_configuration("some-uuid", shared, "127.0.0.2")
    assert 'host_uuid = "some-uuid"' in texts["libvirtd.conf"]
    assert 'shared_filesystems = [ "/tmp/a b" ]' in texts["qemu.conf"]
    assert 'migration_host = "127.0.0.2"' in texts["qemu.conf"]


# --- root file systems ----------------------------------------------------------------------------


def test_a_root_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []

    def debootstrap(
        suites: tuple[str, ...], packages: tuple[str, ...], rootfs: Path, log: Path, say: object
    ) -> None:
        made.append(packages)
        rootfs.mkdir()

    monkeypatch.setattr(roots, "debootstrap", debootstrap)
    monkeypatch.setattr(host, "require", lambda _: None)
    monkeypatch.setattr(host, "require_keys", lambda *_: None)

    def build(packages: tuple[str, ...]) -> Path:
        return roots.build(
            tmp_path, "trixie", packages, what="it", finish=lambda _: "1.2", progress=lambda _: None
        )

    first = build(("one",))
    assert (first / "rootfs").is_dir()
    assert (first / "version").read_text() == "1.2"
    assert build(("one",)) == first
    assert build(("one", "two")) != first
    assert made == [("one",), ("one", "two")]


def test_a_root_that_could_not_be_finished_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots, "debootstrap", lambda *a: a[2].mkdir())
    monkeypatch.setattr(host, "require", lambda _: None)
    monkeypatch.setattr(host, "require_keys", lambda *_: None)

    def fail(_: Path) -> str:
        raise LabError("it does not start")

    with pytest.raises(LabError, match="does not start"):
        roots.build(tmp_path, "trixie", ("one",), what="it", finish=fail, progress=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
