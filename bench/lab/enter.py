# SPDX-License-Identifier: LGPL-2.1-or-later
"""Become another program that dies with its parent, inside a root of its own where asked.

Run as a script (standard library only, imported by nothing), because the steps between fork and
exec (a mount namespace, bind mounts, chroot) are not safe to take in a forked Python with threads.
The mounts live in a private namespace: they vanish with the program, however it ends.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)


def _must(value: int, what: str) -> None:
    if value != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _enter(root: str, binds: list[tuple[str, str]]) -> None:
    _must(libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    # Without this, on a host whose / is shared, the bind mounts would show up outside and stay.
    _must(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "making / private")
    for source, place in binds:
        target = root + place
        if not Path(target).exists():  # a device that is there is no directory
            Path(target).mkdir(parents=True)
        _must(
            libc.mount(source.encode(), target.encode(), None, MS_BIND | MS_REC, None),
            f"binding {source} to {target}",
        )
    os.chroot(root)
    os.chdir("/")


def main() -> None:
    """Read the options, arrange the surroundings, exec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--root")
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--bind-at", action="append", default=[], nargs=2)
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    _must(libc.prctl(PR_SET_PDEATHSIG, options.death_signal, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != options.parent:
        sys.exit(125)  # the parent died before prctl: nobody would ever end this program
    try:
        if options.root:
            same = [(path, path) for path in options.bind]
            _enter(options.root, [*same, *map(tuple, options.bind_at)])
        os.execvp(options.argv[0], options.argv)  # noqa: S606  # what it is for
    except OSError as error:
        print(f"enter: {options.argv[0]}: {error}", file=sys.stderr)
        sys.exit(126)


if __name__ == "__main__":
    main()
