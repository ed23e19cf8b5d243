# SPDX-License-Identifier: LGPL-2.1-or-later
"""The child process in which whatever may block in the kernel is done, one request at a time.

A reclaim write can sit in the kernel for a long time, and only a signal that may kill ends it
early (a task stuck there also makes the freezer abort a hibernation). So it is done where nothing
is lost by a SIGKILL. Requests and answers are JSON, one a line, on standard input and output; the
parent's side is `hibprep.reclaim.worker`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

from hibprep.clock import SystemClock
from hibprep.errors import KernelFileError
from hibprep.kernel.process import MADV_PAGEOUT, open_pidfd, process_madvise
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swapcall import swap_off

_PR_SET_PDEATHSIG = 1


def main(prefix: str, parent: int) -> None:
    """Serve requests until the parent closes the pipe or dies."""
    die_with(parent)
    root, clock = KernelRoot(prefix), SystemClock()
    for line in sys.stdin:
        request = json.loads(line)
        begin = clock.monotonic()
        errno, value = 0, 0
        try:
            value = _serve(root, request)
        except (OSError, KernelFileError) as error:
            errno = error.errno or 5
        answer = {"errno": errno, "value": value, "seconds": clock.monotonic() - begin}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _serve(root: KernelRoot, request: dict[str, Any]) -> int:
    if request["do"] == "write":
        root.raw_write(request["path"], request["text"])
    elif request["do"] == "sync":
        os.sync()
    elif request["do"] == "pageout":
        return _page_out(request["pid"], [(start, length) for start, length in request["ranges"]])
    elif request["do"] == "swapoff":
        swap_off(root, request["path"])
    elif request["do"] in ("willneed", "touch"):
        # only here: most runs bring nothing back
        from hibprep.kernel.fetch import fetch  # noqa: PLC0415

        ranges = [(start, end) for start, end in request["ranges"]]
        return fetch(root, request["pid"], request["start"], ranges, request["do"])
    return 0


def _page_out(pid: int, ranges: list[tuple[int, int]]) -> int:
    pidfd = open_pidfd(pid)
    try:
        return process_madvise(pidfd, ranges, MADV_PAGEOUT)
    finally:
        os.close(pidfd)


def die_with(parent: int) -> None:
    """Be killed when the parent is: a writer that outlives it would go on reclaiming unseen."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request above took effect
        sys.exit(0)
