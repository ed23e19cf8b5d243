# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swap files on real file systems in loop-mounted images: made, swapped to, found by their offset,
taken away again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from hibprep.clock import SystemClock
from hibprep.errors import HibprepError, KernelFileError
from hibprep.kernel.extents import Extent, extents, has_holes, pieces
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swapfile import Made, make
from hibprep.kernel.swaps import read_swaps
from hibprep.setup import record, swap
from hibprep.setup.carry import SystemTools, Undone, carry_out, undo
from hibprep.setup.steps import Configure, MakeSwapFile, Run, Step

pytestmark = pytest.mark.kernel
MIB = 1 << 20
ROOT = KernelRoot()
SIZE = 200 * MIB
SECONDS = 60


def program(*words: str) -> str:
    done = subprocess.run(
        words, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=SECONDS, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stdout)
    return done.stdout


class Disk(NamedTuple):
    """A mounted file system of its own."""

    kind: str
    top: Path
    device: str  # of the loop device

    @property
    def file(self) -> str:
        return str(self.top / "swapfile")


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, workspace: Path) -> Iterator[Disk]:
    kind: str = request.param
    for tool in (f"mkfs.{kind}", "losetup", "mkswap", "swapon", "filefrag"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{tool} is not installed")
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")
    image, top = workspace / "image", workspace / "mounted"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(1024 * MIB)
    program(f"mkfs.{kind}", "-q", str(image))
    device = program("losetup", "--find", "--show", str(image)).strip()
    try:
        program("mount", device, str(top))
        try:
            yield Disk(kind, top, device)
        finally:
            for area in read_swaps(ROOT):
                if area.path.startswith(f"{top}/"):
                    program("swapoff", area.path)
            program("umount", str(top))
    finally:
        program("losetup", "--detach", device)


def made_on(disk: Disk, size_bytes: int = SIZE) -> Made:
    return make(ROOT, disk.file, size_bytes, is_btrfs=disk.kind == "btrfs")


def first_page_by_tools(disk: Disk) -> int:
    """What others say: btrfs's own tool, and filefrag, which on btrfs shows other addresses."""
    if disk.kind == "btrfs":
        return int(program("btrfs", "inspect-internal", "map-swapfile", "-r", disk.file))
    listed = program("filefrag", "-b4096", "-v", disk.file)
    match = re.search(r"^\s*0:\s+0\.\.\s*\d+:\s+(\d+)\.\.", listed, re.MULTILINE)
    assert match is not None, listed
    return int(match[1]) * 4096 // os.sysconf("SC_PAGE_SIZE")


def test_it_is_swapped_to_and_found_by_its_offset(disk: Disk) -> None:
    made = made_on(disk)
    status = Path(disk.file).stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o600, SIZE)
    assert status.st_blocks * 512 >= SIZE
    assert made.offset_pages == first_page_by_tools(disk)
    assert made.pieces >= 1
    program("mkswap", disk.file)
    assert made.offset_pages == first_page_by_tools(disk)
    program("swapon", disk.file)
    area = next(each for each in read_swaps(ROOT) if each.path == disk.file)
    assert area.offset_pages == made.offset_pages
    # the number that /sys/power/resume would be given: that of the disk, also on btrfs
    number = Path(f"/sys/class/block/{disk.device.removeprefix('/dev/')}/dev").read_text()
    assert area.device == number.strip()
    # the signature that the kernel looks for lies at that page of the disk
    with open(disk.device, "rb") as raw:  # noqa: PTH123 - a device
        raw.seek((made.offset_pages + 1) * os.sysconf("SC_PAGE_SIZE") - 10)
        os.sync()
        assert raw.read(10) == b"SWAPSPACE2"


def test_the_address_of_a_file_of_many_pieces(disk: Disk) -> None:
    """Filled with small files of which every other is taken away, the disk has no large piece."""
    (disk.top / "filler").mkdir()
    small = 4 * MIB
    number = 0
    try:
        while True:
            with (disk.top / "filler" / str(number)).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, small)
            number += 1
    except OSError:
        pass
    os.sync()
    for each in range(0, number, 2):
        (disk.top / "filler" / str(each)).unlink(missing_ok=True)
    os.sync()
    made = made_on(disk, 64 * MIB)
    assert made.offset_pages == first_page_by_tools(disk)
    with open(disk.file, "rb") as file:  # noqa: PTH123 - a path as text
        found = extents(file.fileno())
    assert pieces(found) == made.pieces
    assert not has_holes(found, 64 * MIB)
    program("mkswap", disk.file)
    program("swapon", disk.file)


def test_a_disk_that_is_too_small_is_left_as_it_was(disk: Disk) -> None:
    with pytest.raises(KernelFileError, match="No space left"):
        made_on(disk, 8 << 30)
    assert not Path(disk.file).exists()


def test_a_file_that_is_there_is_not_touched(disk: Disk) -> None:
    Path(disk.file).write_text("theirs")
    with pytest.raises(KernelFileError, match="File exists"):
        made_on(disk)
    assert Path(disk.file).read_text() == "theirs"


def test_holes_are_seen(disk: Disk) -> None:
    path = disk.top / "sparse"
    with path.open("wb") as file:
        file.write(b"x" * MIB)
        file.seek(8 * MIB)
        file.write(b"x" * MIB)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        assert has_holes(extents(file.fileno()), 9 * MIB)


def steps(disk: Disk) -> tuple[Step, ...]:
    """Those of the plan that concern this disk."""
    facts = swap.gather(ROOT, disk.file)
    # other swap of this machine, and its boot loader, are none of a test's business
    facts = replace(
        facts, snapshot=replace(facts.snapshot, swaps=()), fstab="", loaders=(), initramfs=None
    )
    assert facts.kind == disk.kind
    assert (
        facts.device
        == Path(f"/sys/class/block/{disk.device.removeprefix('/dev/')}/dev").read_text().strip()
    )
    found = swap.plan(ROOT, replace(facts, uuid=facts.uuid or "x"), SIZE).steps
    return tuple(step for step in found if not isinstance(step, Configure))


@pytest.fixture
def _own_record(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "DIRECTORY", str(workspace / "record"))


@pytest.mark.usefixtures("_own_record")
def test_the_steps_of_the_plan_and_their_undoing(disk: Disk) -> None:
    planned = steps(disk)
    assert [type(step) for step in planned] == [MakeSwapFile, Run, Run]
    carried = carry_out("swap", planned, SystemTools(ROOT), SystemClock())
    assert carried.offset_pages == first_page_by_tools(disk)
    assert any(area.path == disk.file for area in read_swaps(ROOT))
    assert undo("swap", SystemTools(ROOT)) == []
    assert not any(area.path == disk.file for area in read_swaps(ROOT))
    assert list(disk.top.iterdir()) == [] or [p.name for p in disk.top.iterdir()] == ["lost+found"]


@pytest.mark.usefixtures("_own_record")
def test_a_step_that_fails_takes_all_back(disk: Disk) -> None:
    failing = Run(title="fail", program=("false",))
    with pytest.raises(Undone, match="everything is as it was before"):
        carry_out("swap", (*steps(disk), failing), SystemTools(ROOT), SystemClock())
    assert not any(area.path == disk.file for area in read_swaps(ROOT))
    assert not Path(disk.file).exists()
    assert record.names(ROOT) == ()


def test_a_program_that_takes_too_long_is_ended(root: None) -> None:
    with pytest.raises(HibprepError, match="took longer than 0 s and was ended"):
        SystemTools(ROOT).run(("sleep", "600"), 0.2)


def test_what_a_program_said_is_told(root: None) -> None:
    with pytest.raises(HibprepError, match=r"swapon.*exit code [0-9]+: .*[Nn]o such file"):
        SystemTools(ROOT).run(("swapon", "/nonexistent/file"), 10)
    with pytest.raises(HibprepError, match="install it"):
        SystemTools(ROOT).run(("no-such-program-here",), 10)


def test_pieces_and_holes() -> None:
    one = (Extent(0, 4096, 4096, True), Extent(4096, 8192, 4096, True))  # noqa: FBT003
    assert pieces(one) == 1
    assert pieces((one[0], Extent(4096, 65536, 4096, True))) == 2  # noqa: FBT003
    assert not has_holes(one, 8192)
    assert has_holes(one, 8193)
    assert has_holes((one[1],), 8192)
    assert has_holes((Extent(0, 0, 8192, False),), 8192)  # noqa: FBT003
