# SPDX-License-Identifier: LGPL-2.1-or-later
"""Quick measurements for the time model: how fast the resume device reads, how fast the CPU packs.

Both take a fraction of a second, read only, and leave nothing behind.
"""

from __future__ import annotations

import mmap
import os
import zlib

from hibprep.clock import Clock
from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot, translate

_READ_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20
_LONGEST_SECONDS = 0.5
_SAMPLE_BYTES = 1 << 20
# LZO packs the same half-random pages about this many times as fast as zlib's level 1 does; from
# the write times of images whose disk was not the bottleneck (6.12, emulated and not).
_LZO_TO_ZLIB = 4.0
_MOST_THREADS = 3  # CMP_THREADS, kernel/power/swap.c


def read_bytes_per_second(root: KernelRoot, path: str, clock: Clock) -> float:
    """Sequential reading from the device or file at `path`, past the page cache (O_DIRECT).

    Raises KernelFileError when it cannot be opened or read.
    """
    try:
        descriptor = os.open(root.path(path), os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        raise translate(path, error) from error
    done = 0
    begin = clock.monotonic()
    try:
        with mmap.mmap(-1, _BLOCK_BYTES) as block:  # O_DIRECT wants page-aligned memory
            while done < _READ_BYTES and clock.monotonic() - begin < _LONGEST_SECONDS:
                count = os.preadv(descriptor, [block], done)
                if count == 0:
                    break
                done += count
    except OSError as error:
        raise translate(path, error) from error
    finally:
        os.close(descriptor)
    seconds = clock.monotonic() - begin
    if done == 0 or seconds <= 0:
        raise KernelFileError(path, "nothing could be read from it")
    return done / seconds


def compress_bytes_per_second(cpus: int, clock: Clock) -> float:
    """What the kernel's LZO threads would pack, judged by zlib's quickest level on one CPU."""
    half = os.urandom(_SAMPLE_BYTES // 2)
    sample = b"".join(
        half[start : start + 2048] + bytes(2048) for start in range(0, len(half), 2048)
    )
    begin = clock.monotonic()
    zlib.compress(sample, 1)
    seconds = max(1e-6, clock.monotonic() - begin)
    threads = min(_MOST_THREADS, max(1, cpus - 1))
    return len(sample) / seconds * _LZO_TO_ZLIB * threads
