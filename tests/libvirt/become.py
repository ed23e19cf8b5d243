# SPDX-License-Identifier: LGPL-2.1-or-later
"""``become.py UID PROGRAM ARGUMENT…``: as root, become a user who may still read every file, and
then that program.

Run as a script (standard library only, imported by nothing). The interpreter of the tests, and
hibprep itself, may be in root's home: CAP_DAC_READ_SEARCH lets the user in there, and being ambient
(Linux 4.3, capabilities(7)) it is kept by the program and by what that runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT = 1, 8, 47
PR_CAP_AMBIENT_RAISE = 2

libc = ctypes.CDLL(None, use_errno=True)


def must(value: int, what: str) -> None:
    """OSError for what has failed."""
    if value != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def become(user: int) -> None:
    """That user, and its group, with the one capability."""
    must(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    wanted = 1 << CAP_DAC_READ_SEARCH
    # effective, permitted and inheritable, of the first 32 and of the others
    sets = (ctypes.c_uint32 * 6)(wanted, wanted, wanted, 0, 0, 0)
    must(libc.capset(header, sets), "capset")
    raised = libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0)
    must(raised, "prctl(PR_CAP_AMBIENT)")


def main() -> None:
    """Become it; the signal for the death of the parent is lost with the old user."""
    parent = os.getppid()
    become(int(sys.argv[1]))
    must(libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(125)  # it has died meanwhile: nobody would ever end this program
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - what it is for


if __name__ == "__main__":
    main()
