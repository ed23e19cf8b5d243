# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds a QEMU that is fit for it, and an accelerator that really works here."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.lab import roots
from bench.lab.errors import LabError
from bench.lab.images import Image, Progress
from bench.lab.paths import qemu_root
from bench.lab.process import end, launch, tail

# Before 8, emulated cmpxchg16b corrupts flags and recent guests panic.
_OLDEST = 8
_SUITE = "trixie"
_PACKAGES = ("qemu-system-x86", "seabios", "ipxe-qemu")
_TRIAL_SECONDS = 15.0
_BINARY = "qemu-system-x86_64"


@dataclass(frozen=True)
class Qemu:
    """A QEMU to run guests with: the host's, or one in a root file system of its own."""

    binary: str
    version: str
    root: Path | None

    def launch(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        folders: Sequence[Path],
        sockets: Sequence[socket.socket] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a machine; ``folders`` are what it may see of this host's files."""
        binds = [Path("/dev"), Path("/proc"), Path("/sys"), *folders]
        with log.open("ab") as output:
            return launch(
                [self.binary, *arguments],
                output=output,
                root=self.root,
                binds=binds,
                pass_fds=[item.fileno() for item in sockets],
            )


def find(progress: Progress) -> Qemu:
    """The host's QEMU if it is recent enough, else one of our own (built if need be)."""
    present = shutil.which(_BINARY)
    if present is not None:
        version = _version([present])
        if int(version.split(".")[0]) >= _OLDEST:
            return Qemu(present, version, None)
    return _own(progress)


def _version(command: list[str]) -> str:
    done = subprocess.run(
        [*command, "--version"], capture_output=True, timeout=60, check=False, text=True
    )
    match = re.search(r"version (\d+(?:\.\d+)+)", done.stdout)
    if match is None:
        said = (done.stdout + done.stderr).strip()[:500]
        raise LabError(f"{' '.join(command)} --version ended with {done.returncode}: {said}")
    return match.group(1)


def _own(progress: Progress) -> Qemu:
    place = roots.build(
        qemu_root(),
        _SUITE,
        _PACKAGES,
        what="QEMU, of which this machine has none that is recent",
        finish=lambda rootfs: _version(["chroot", str(rootfs), f"/usr/bin/{_BINARY}"]),
        progress=progress,
    )
    return Qemu(f"/usr/bin/{_BINARY}", (place / "version").read_text(), place / "rootfs")


def accelerator(qemu: Qemu, image: Image, progress: Progress) -> tuple[str, ...]:
    """The arguments of the fastest accelerator that has been seen to boot a guest here."""
    if _kvm_works(qemu, image, progress):
        return ("-accel", "kvm", "-cpu", "host")
    # One instruction that clears a page (ERMS) is emulated byte by byte; without it the kernel does
    # that in a loop of stores, and memory moves 1.4 times as fast
    return ("-accel", "tcg,thread=multi", "-cpu", "max,erms=off,fsrm=off")


def _kvm_works(qemu: Qemu, image: Image, progress: Progress) -> bool:
    # The device being there proves nothing: under some hypervisors ordinary guests die at once.
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    qemu_root().mkdir(parents=True, exist_ok=True)
    answers_path = qemu_root() / "trial-boots.json"
    key = f"{platform.release()} {platform.version()} qemu {qemu.version}"
    try:
        answers: dict[str, bool] = json.loads(answers_path.read_text())
    except (FileNotFoundError, ValueError):
        answers = {}
    if key not in answers:
        progress("trying whether KVM boots a guest here")
        answers[key] = _trial_boot(qemu, image)
        progress(f"KVM {'works' if answers[key] else 'does not work: guests are emulated (TCG)'}")
        temporary = answers_path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(answers, indent=1) + "\n")
        temporary.replace(answers_path)
    return answers[key]


def _trial_boot(qemu: Qemu, image: Image) -> bool:
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=qemu_root()) as name:
        place = Path(name)
        console = place / "console.log"
        arguments = [
            *("-accel", "kvm", "-cpu", "host", "-m", "512M", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-no-reboot", "-serial", f"file:{console}"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            # The kernel runs one harmless program as init, panics when it ends, and restarts,
            # which ends QEMU: both kernel and user mode are known to work then.
            *("-append", "console=ttyS0 panic=-1 rdinit=/bin/true cryptomgr.notests"),
        ]
        process = qemu.launch(arguments, log=place / "qemu.log", folders=[image.root.parent, place])
        try:
            process.wait(_TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end(process, grace_seconds=0)
        return "Attempted to kill init! exitcode=0x00000000" in tail(console, 200)
