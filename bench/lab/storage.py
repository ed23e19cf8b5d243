# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a guest keeps its files and what it swaps to: a second disk, a file, or nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab.disks import copy_sparse, grow, make_swap
from bench.lab.errors import GuestTimeout, LabError

if TYPE_CHECKING:
    from bench.lab.guest import Guest

ROOT_DEVICE = "/dev/vda"
SWAP_DEVICE = "/dev/vdb"
SWAP_FILE = "/swapfile"

_SWAP_SECONDS = 60.0
_SET_UP_SECONDS = 120.0

# noinit_itable: else the kernel would write the new inode tables in the background, which is to
# say during a measurement.
_GROW_ROOT = """
mount -o remount,noinit_itable /
resize2fs "$1"
mount -o remount,init_itable /
"""

# Its extents are allocated and never written: swap goes past the file system, and so does an image.
_MAKE_SWAP_FILE = """
umask 077
rm -f "$2"
fallocate -l "$3" "$2"
mkswap "$2"
swapon "$2"
sync
filefrag -b4096 -v "$2"
"""

# The device last: it is what makes the kernel look for an image there, at the offset it then has.
# The fstab is for later boots; synced, because they may come after the power was cut.
_SET_RESUME = """
printf %s "$3" > /sys/power/resume_offset
cat "/sys/class/block/${1#/dev/}/dev" > /sys/power/resume
sed -i "/ swap /c $2 none swap sw 0 0" /etc/fstab
sync
"""


class Storage:
    """The disks of one guest, and what its kernel is told about them."""

    def __init__(self, *, root_bytes: int | None, swap_bytes: int, swap_file: bool) -> None:
        if swap_file and not swap_bytes:
            raise LabError("a swap file of 0 bytes was asked for")
        self.swap_bytes = swap_bytes
        self._root_bytes = root_bytes
        self._swap_file = swap_file
        self._resume_offset: int | None = None  # in pages; not known before there is the file
        self._is_set_up = False

    def make_disks(self, image_root: Path, folder: Path) -> tuple[Path, Path | None]:
        """The root disk, and the one to swap to if there is to be one."""
        root_disk, swap_disk = folder / "root.img", folder / "swap.img"
        copy_sparse(image_root, root_disk)
        wanted = self._root_bytes
        if self._swap_file:
            wanted = (wanted or root_disk.stat().st_size) + self.swap_bytes
        if wanted is not None:
            grow(root_disk, wanted)
        if self._swap_file or not self.swap_bytes:
            return root_disk, None
        make_swap(swap_disk, self.swap_bytes)
        return root_disk, swap_disk

    def kernel_words(self) -> list[str]:
        """What to say about swap on the kernel's command line at the next power-on."""
        if not self.swap_bytes:
            return ["noresume", "systemd.swap=no"]
        if not self._swap_file:
            return [f"resume={SWAP_DEVICE}"]
        if self._resume_offset is None:
            # There is nothing to be resumed, but the running system reads this later, too.
            # systemd.swap=no: it would wait for the disk that the image's fstab names.
            return [f"resume={ROOT_DEVICE}", "systemd.swap=no"]
        return [f"resume={ROOT_DEVICE}", f"resume_offset={self._resume_offset}"]

    def set_up(self, guest: Guest) -> None:
        """After a boot: what the guest itself has to do the first time; then wait for its swap."""
        if not self._is_set_up:
            if self._swap_file or self._root_bytes is not None:
                _shell(guest, _GROW_ROOT, ROOT_DEVICE)
            if self._swap_file:
                argv = (ROOT_DEVICE, SWAP_FILE, str(self.swap_bytes))
                offset = parse_first_page(_shell(guest, _MAKE_SWAP_FILE, *argv))
                _shell(guest, _SET_RESUME, ROOT_DEVICE, SWAP_FILE, str(offset))
                self._resume_offset = offset
            self._is_set_up = True
        if self.swap_bytes:
            _wait_for_swap(guest, SWAP_FILE if self._swap_file else SWAP_DEVICE)


def parse_first_page(filefrag: str) -> int:
    """The physical page at which a file begins, from what ``filefrag -b4096 -v`` prints."""
    # extent, logical range, physical range, and more that is not of interest
    match = re.search(r"^\s*0:\s+0\.\.\s*\d+:\s+(\d+)\.\.", filefrag, re.MULTILINE)
    if match is None:
        raise LabError(f"no first extent in what filefrag printed:\n{filefrag}")
    return int(match.group(1))


def _shell(guest: Guest, script: str, *arguments: str) -> str:
    argv = ["/bin/sh", "-euc", script, "sh", *arguments]
    return guest.run(argv, timeout=_SET_UP_SECONDS, check=True).text


def _wait_for_swap(guest: Guest, name: str) -> None:
    deadline = time.monotonic() + _SWAP_SECONDS
    while name not in guest.read("/proc/swaps"):
        if time.monotonic() > deadline:
            raise GuestTimeout(f"no swap {_SWAP_SECONDS:.0f} s after boot\n{guest.console_tail()}")
        time.sleep(0.2)
