# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's log says of the last hibernation (Documentation/ABI/testing/dev-kmsg).

The image holds the log as it was at the moment of the copy, so after a resume everything up to
there can be read; what was logged while the image was written and read back is lost.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from hibprep.kernel.root import KernelRoot

FILE = "/dev/kmsg"
_RECORD_BYTES = 8192  # CONSOLE_EXT_LOG_MAX: one read(2) returns one record
_MOST_RECORDS = 100_000
_RECORD = re.compile(r"[0-9]+,[0-9]+,([0-9]+),[^;]*;([^\n]*)", re.ASCII)
_ALLOCATED = re.compile(r"Allocated ([0-9]+) kbytes in ([0-9]+\.[0-9]+) seconds", re.ASCII)


@dataclass(frozen=True, slots=True)
class HibernationLog:
    """What was logged of a hibernation up to its atomic copy."""

    allocated_bytes: int
    allocate_seconds: float
    until_copy_seconds: float  # from the entry to the copy, 0.0 where that is not logged


def parse_kmsg(text: str) -> HibernationLog | None:
    """The last hibernation in the records of /dev/kmsg; None when there is none in them."""
    entry = copy = 0.0
    allocated: tuple[int, float] | None = None
    for stamp, message in _RECORD.findall(text):
        seconds = int(stamp[:18]) / 1e6
        if message.endswith("hibernation entry"):
            entry, copy, allocated = seconds, 0.0, None
        elif found := _ALLOCATED.search(message):
            allocated = (int(found[1][:15]) * 1024, float(found[2]))
        elif "Creating image" in message:
            copy = seconds
    if allocated is None:
        return None
    return HibernationLog(allocated[0], allocated[1], max(0.0, copy - entry) if copy else 0.0)


def read_hibernation_log(root: KernelRoot) -> HibernationLog | None:
    """From the kernel's log as it is; None where it may not be read or says nothing of it."""
    try:
        descriptor = os.open(root.path(FILE), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    records: list[bytes] = []
    try:
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(descriptor, _RECORD_BYTES)
            except BrokenPipeError:  # overwritten while it was read: go on with the next
                continue
            if not record:
                break
            records.append(record)
    except OSError:  # EAGAIN: the end
        pass
    finally:
        os.close(descriptor)
    return parse_kmsg(b"".join(records).decode(errors="replace"))
