# SPDX-License-Identifier: LGPL-2.1-or-later
"""A swap file and memory to work on, on the real kernel; and proof that all of it is put back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.paths import cache_root
from bench.load import CannotMeasure, Filler, swap_is_on, temporary_swap
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.root import KernelRoot

ROOT = KernelRoot()
NODE_RECLAIM = Path("/sys/devices/system/node/node0/reclaim")
SETTINGS = (
    "/proc/sys/vm/min_unmapped_ratio",
    "/proc/sys/vm/min_slab_ratio",
    "/proc/sys/vm/swappiness",
    "/proc/sys/vm/laptop_mode",
    "/sys/kernel/mm/lru_gen/enabled",
    "/sys/module/zswap/parameters/enabled",
    "/sys/power/image_size",
)
JOURNALS = Path("/run/hibprep")


def settings() -> dict[str, str]:
    """What hibprep may change, as it is now."""
    found = {path: ROOT.try_read(path) for path in SETTINGS}
    return {path: text.strip() for path, text in found.items() if text is not None}


def journals() -> list[str]:
    """The records of changed settings."""
    return sorted(path.name for path in JOURNALS.glob("knobs-*"))


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("must be root")


@pytest.fixture
def workspace(root: None) -> Iterator[Path]:
    """A folder on a disk: what is in a tmpfs is no page cache and no swap file."""
    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kernel-tests-", dir=cache_root()) as folder:
        yield Path(folder)


@pytest.fixture
def unchanged(root: None) -> Iterator[dict[str, str]]:
    """The settings before the test, which must be those after it."""
    before = settings()
    yield before
    assert settings() == before


@pytest.fixture
def swap_file(root: None) -> Iterator[Path]:
    try:
        with temporary_swap() as path:
            yield path
    except CannotMeasure as error:
        pytest.skip(str(error))
    assert not swap_is_on(path)
    assert not path.exists()


@pytest.fixture
def filler(swap_file: Path) -> Iterator[Filler]:
    """256 MiB of anonymous memory of a process."""
    size_bytes = 256 << 20
    if read_meminfo(ROOT).available_bytes < 3 * size_bytes:
        pytest.skip("less than 768 MiB of memory are available")
    with Filler(size_bytes) as made:
        yield made


@pytest.fixture
def node_reclaim(root: None) -> None:
    if not NODE_RECLAIM.exists():
        pytest.skip(f"no {NODE_RECLAIM}: a kernel from 6.17 on with CONFIG_NUMA has it")
