# SPDX-License-Identifier: LGPL-2.1-or-later
"""Turns a bare Debian root file system into a guest of the lab.

What is written here is part of every image's key: a change rebuilds the images.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.lab.errors import LabError
from bench.lab.process import run_logged

AGENT_DIRECTORY = "/opt/hibprep-lab"
LIBRARY_DIRECTORY = "/opt/hibprep/lib"
APPLICATION_DIRECTORY = "/opt/hibprep/app"

# Under emulation every service costs a good part of a second, and what wakes up by itself later
# disturbs measurements.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-timesyncd.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-pstore.service",
    "systemd-firstboot.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "getty@.service",
    "serial-getty@.service",
    "console-getty.service",
    "systemd-hwdb-update.service",
    "ldconfig.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "modprobe@efi_pstore.service",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-journal-catalog-update.service",
    "systemd-random-seed.service",
    "systemd-update-done.service",
)

# The agent's slice must have as much protection as the agent, or the agent has none.
_PROTECTED = "32M"

_AGENT_UNIT = f"""[Unit]
Description=Control agent of the hibprep lab
After=systemd-logind.service dbus.socket
Wants=systemd-logind.service

[Service]
ExecStart=/usr/bin/python3 -I -S {AGENT_DIRECTORY}/agent.py
Restart=always
RestartSec=100ms
MemoryMin={_PROTECTED}
OOMScoreAdjust=-1000
LimitMEMLOCK=infinity
# Commands that outlive the agent are their caller's business.
KillMode=process

[Install]
WantedBy=multi-user.target
"""

_FILES = {
    "etc/systemd/system/hibprep-lab.service": _AGENT_UNIT,
    "etc/systemd/system/system.slice.d/hibprep-lab.conf": f"[Slice]\nMemoryMin={_PROTECTED}\n",
    "etc/systemd/journald.conf.d/hibprep-lab.conf": "[Journal]\nStorage=volatile\n",
    # nofail: a guest may be booted without a swap disk.
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 1\n/dev/vdb none swap sw,nofail 0 0\n",
    "etc/hostname": "hibprep-lab\n",
    "etc/initramfs-tools/conf.d/resume": "RESUME=/dev/vdb\n",
    # Only what the root disk needs: a small initrd boots seconds earlier under emulation.
    "etc/initramfs-tools/conf.d/hibprep-lab": "MODULES=list\nCOMPRESS=lz4\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\ncrc32c\nlz4\nlz4_compress\n",
    "etc/modules-load.d/hibprep-lab.conf": "virtio_console\n",
    "usr/lib/python3/dist-packages/hibprep-lab.pth": (
        f"{APPLICATION_DIRECTORY}\n{LIBRARY_DIRECTORY}\n"
    ),
}

_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_BINDS = (Path("/proc"), Path("/sys"), Path("/dev"))


def apply(rootfs: Path, requirements: tuple[str, ...], log: Path) -> None:
    """Write the lab's files, install the Python requirements, make the initrd anew."""
    for name, text in _FILES.items():
        path = rootfs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for unit in _MASKED:
        path = rootfs / "etc/systemd/system" / unit
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    wants = rootfs / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "hibprep-lab.service").symlink_to("/etc/systemd/system/hibprep-lab.service")
    default = rootfs / "etc/systemd/system/default.target"
    default.unlink(missing_ok=True)
    default.symlink_to("/usr/lib/systemd/system/multi-user.target")
    # No first boot: an empty machine-id would run preset-all and friends at every start.
    (rootfs / "etc/machine-id").write_text("00000000000040008000000000000001\n")
    target = rootfs / AGENT_DIRECTORY.lstrip("/")
    target.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("agent.py"), target / "agent.py")
    (rootfs / APPLICATION_DIRECTORY.lstrip("/")).mkdir(parents=True)
    _install_requirements(rootfs, requirements, log)
    run_logged(["update-initramfs", "-u", "-k", "all"], log, timeout=300, root=rootfs, binds=_BINDS)


def python_version(rootfs: Path) -> str:
    """The guest's Python, such as 3.13."""
    target = (rootfs / "usr/bin/python3").readlink().name
    return target.removeprefix("python")


def _install_requirements(rootfs: Path, requirements: tuple[str, ...], log: Path) -> None:
    try:
        import pip  # noqa: F401, PLC0415  # only here is it needed, and only its being there counts
    except ImportError:
        raise LabError(
            f"{sys.executable} has no pip, which installs the requirements into the image",
            f"{sys.executable} -m ensurepip",
        ) from None
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"),
        *("--disable-pip-version-check", "--no-input", "--root-user-action=ignore"),
        f"--target={rootfs}{LIBRARY_DIRECTORY}",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python_version(rootfs)}",
        *(f"--platform={name}" for name in _PLATFORMS),
        *requirements,
    ]
    run_logged(
        command, log, timeout=600, remedy="is there a network, and a package index that pip knows?"
    )
    # By the guest's own Python: the host's may be of another version.
    run_logged(
        ["/usr/bin/python3", "-m", "compileall", "-q", LIBRARY_DIRECTORY, AGENT_DIRECTORY],
        log,
        timeout=300,
        root=rootfs,
        binds=_BINDS,
    )
