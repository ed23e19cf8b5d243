# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts with a libvirtd each, on one machine, for guests that move between them.

libvirtd tells one host from another by its UUID alone, so two that run as an ordinary user, each
with its own folders, are two hosts. They see this machine's folder for temporary files at the same
path as everybody, so that one URI is good for clients and for the other daemon; programs and
``/etc/libvirt`` are those of `hypervisor`, ``/etc/libvirt/hooks`` is each host's own.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bench.lab import hypervisor
from bench.lab.disks import WorkFolder, copy_sparse, make_swap
from bench.lab.errors import LabError
from bench.lab.rig_host import RigHost

if TYPE_CHECKING:
    from bench.lab.hypervisor import Hypervisor
    from bench.lab.images import Image

GiB = 1 << 30

_PREFIX = "hibprep-rig-"
_ADDRESSES = {"a": "127.0.0.2", "b": "127.0.0.3"}
_USERFAULTFD = Path("/dev/userfaultfd")


@dataclass(frozen=True)
class GuestFiles:
    """The files of a guest, at the paths where libvirtd sees them; ``console`` is everybody's."""

    kernel: Path
    initrd: Path
    root_disk: Path
    swap_disk: Path | None
    console: Path


class Rig:
    """Hosts ``a`` and ``b``. Use it in a ``with`` statement: its end ends all it started."""

    def __init__(self, progress: Callable[[str], None] | None = None) -> None:
        if os.geteuid() != 0:
            raise LabError("the rig changes its root and its user, and must be root", "use sudo")
        self.hypervisor: Hypervisor = hypervisor.find(progress or (lambda _: None))
        temporary = Path(tempfile.gettempdir()).resolve()
        self._folder = WorkFolder(temporary, prefix=_PREFIX)
        # Of gigabytes, where a folder for temporary files may be in memory.
        self._disks = WorkFolder()
        self._guests = 0
        self.path = self._folder.path
        self.path.chmod(0o711)
        own(self._disks.path)
        self._devices = self._own_devices()
        self._seen_disks = self.path / "disks"
        self._seen_disks.mkdir()
        self.a, self.b = (self._host(name, temporary) for name in "ab")

    def __enter__(self) -> Self:
        try:
            for host in self.hosts:
                host.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def hosts(self) -> tuple[RigHost, RigHost]:
        """Both."""
        return (self.a, self.b)

    def other(self, host: RigHost) -> RigHost:
        """The one that it is not."""
        return self.b if host is self.a else self.a

    def guest_files(self, image: Image, *, swap_bytes: int = GiB) -> GuestFiles:
        """New disks for a guest of that image, which both hosts see; 0 for no swap."""
        self._guests += 1
        folder = self._disks.path / f"guest-{self._guests}"
        folder.mkdir()
        for source, name in ((image.kernel, "vmlinuz"), (image.initrd, "initrd")):
            shutil.copyfile(source, folder / name)
        copy_sparse(image.root, folder / "root.img")
        if swap_bytes:
            make_swap(folder / "swap.img", swap_bytes)
        console = self.path / f"console-{self._guests}.log"
        console.touch()
        for path in (folder, *folder.iterdir(), console):
            own(path)
        seen = self._seen_disks / folder.name
        return GuestFiles(
            kernel=seen / "vmlinuz",
            initrd=seen / "initrd",
            root_disk=seen / "root.img",
            swap_disk=seen / "swap.img" if swap_bytes else None,
            console=console,
        )

    def remove(self, files: GuestFiles) -> None:
        """Remove the disks of a guest that is gone."""
        shutil.rmtree(self._disks.path / files.root_disk.parent.name, ignore_errors=True)
        files.console.unlink(missing_ok=True)

    def close(self) -> None:
        """End both daemons with all their guests, and remove everything."""
        for host in self.hosts:
            host.close()
        self._disks.close()
        self._folder.close()

    def _host(self, name: str, temporary: Path) -> RigHost:
        return RigHost(
            name,
            self.path / name,
            self.hypervisor,
            binds=(temporary,),
            places={self._disks.path: self._seen_disks, **self._devices},
            shared=(self._seen_disks,),
            address=_ADDRESSES[name],
        )

    def _own_devices(self) -> dict[Path, Path]:
        """What post-copy takes (Linux 6.1; Documentation/admin-guide/mm/userfaultfd.rst), as a node
        that belongs to the daemons: this machine's belongs to root. Beside the disks, since devices
        need not work where temporary files are."""
        if not _USERFAULTFD.exists():
            return {}
        node = self._disks.path / _USERFAULTFD.name
        os.mknod(node, stat.S_IFCHR | 0o600, _USERFAULTFD.stat().st_rdev)
        own(node)
        return {node: _USERFAULTFD}


def own(path: Path) -> None:
    """Give a file or a folder to the user that the daemons run as."""
    os.chown(path, hypervisor.UID, hypervisor.UID)
