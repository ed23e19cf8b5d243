# SPDX-License-Identifier: LGPL-2.1-or-later
"""One host of the rig: a libvirtd that runs as an ordinary user, with folders of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab import hypervisor
from bench.lab.errors import GuestTimeout, LabError
from bench.lab.process import end, launch, tail

if TYPE_CHECKING:
    from bench.lab.hypervisor import Hypervisor

_KEEPER = Path(__file__).with_name("keeper.py")
_START_SECONDS = 60.0  # QEMU is asked what it can do when it is seen for the first time
_KILL_SECONDS = 10.0
_HOOKS = Path("/etc/libvirt/hooks")
_KERNEL_FOLDERS = (Path("/dev"), Path("/proc"), Path("/sys"))
_FOLDERS = ("home", "config", "cache", "data", "run", "state")


class RigHost:
    """A libvirtd and its QEMUs. What is in ``hooks`` is its ``/etc/libvirt/hooks``; a daemon looks
    there when it starts."""

    def __init__(
        self,
        name: str,
        folder: Path,
        found: Hypervisor,
        *,
        binds: Sequence[Path] = (),
        places: Mapping[Path, Path] | None = None,
        shared: Sequence[Path] = (),
        address: str,
    ) -> None:
        """``binds``: what it sees of this machine, at the same path; ``places``: at another one.

        ``shared``: folders of which libvirt is to believe that the other host has them too.
        ``address``: where its QEMUs listen for guests that come in, if nobody says where.
        """
        self.name = name
        self.address = address
        self.uuid = str(uuid.uuid4())
        self.folder = folder
        self.hooks = folder / "hooks"
        self.log = folder / "libvirtd.log"
        self._hypervisor = found
        self._binds = (*_KERNEL_FOLDERS, *binds)
        self._places = {**(places or {}), self.hooks: _HOOKS}
        self._keeper: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._daemon = -1  # a pidfd
        self.pid = 0
        self._make_folders(shared)

    @property
    def socket_path(self) -> Path:
        """Where libvirtd listens."""
        return self.folder / "run/libvirt/libvirt-sock"

    @property
    def uri(self) -> str:
        """For clients, and for the other daemon."""
        return f"qemu+unix:///session?socket={self.socket_path}"

    @property
    def environment(self) -> dict[str, str]:
        """What the daemon gets, and a client of the same user would."""
        variables = {"HOME": "home", "TMPDIR": "run", "XDG_RUNTIME_DIR": "run"}
        for what in ("config", "cache", "data", "state"):
            variables[f"XDG_{what.upper()}_HOME"] = what
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            # a client in a daemon that finds no other one is to say so, and not to start one
            "LIBVIRT_AUTOSTART": "0",
            **{name: str(self.folder / what) for name, what in variables.items()},
        }

    @property
    def running(self) -> bool:
        """Whether its daemon is there."""
        return self._daemon >= 0 and not _has_ended(self._daemon, 0)

    def start(self) -> None:
        """Start the daemon, also again after `kill_daemon`; returns when it answers."""
        if self.running:
            raise LabError(f"the daemon of host {self.name} runs already")
        self._forget_daemon()
        if self._keeper is None:
            self._start_keeper()
        self.pid = self._ask(
            {
                "arguments": self._arguments(
                    self._hypervisor.daemon, "-f", str(self.folder / "config/libvirt/libvirtd.conf")
                ),
                "environment": self.environment,
            }
        )
        try:
            self._daemon = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise LabError(f"libvirtd ended at once\n{tail(self.log)}") from None
        self._wait_for_socket()

    def kill_daemon(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon alone: its QEMUs go on."""
        if self._daemon < 0:
            raise LabError(f"the daemon of host {self.name} was not started")
        if not _has_ended(self._daemon, 0):
            signal.pidfd_send_signal(self._daemon, number)
        if not _has_ended(self._daemon, _KILL_SECONDS):
            raise GuestTimeout(
                f"libvirtd is still there {_KILL_SECONDS:.0f} s after signal {number}"
            )
        self._forget_daemon()

    def stop_daemon(self) -> None:
        """Let it stand still: it has its connections, and answers nobody."""
        signal.pidfd_send_signal(self._daemon, signal.SIGSTOP)

    def continue_daemon(self) -> None:
        """Let it go on."""
        signal.pidfd_send_signal(self._daemon, signal.SIGCONT)

    def cut_power(self) -> None:
        """End everything that runs on this host; it can be started again."""
        self._forget_daemon()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._keeper is not None:
            try:
                self._keeper.wait(30)
            except subprocess.TimeoutExpired:
                end(self._keeper)
            self._keeper = None

    def close(self) -> None:
        """The same, for good. Its folder is the rig's to remove."""
        self.cut_power()

    # -- inside --------------------------------------------------------------------------------

    def _make_folders(self, shared: Sequence[Path]) -> None:
        self.folder.mkdir()
        self.hooks.mkdir()
        for name in _FOLDERS:
            (self.folder / name).mkdir(mode=0o700)
        configuration = self.folder / "config/libvirt"
        configuration.mkdir()
        texts = daemon_configuration(self.uuid, shared, self.address)
        for name, text in texts.items():
            (configuration / name).write_text(text)
        owned = [self.folder / name for name in _FOLDERS]
        for path in (*owned, configuration, *configuration.iterdir()):
            os.chown(path, hypervisor.UID, hypervisor.UID)

    def _start_keeper(self) -> None:
        near, far = socket.socketpair()
        try:
            with self.log.open("ab") as output:
                self._keeper = launch(
                    [sys.executable, "-I", "-S", str(_KEEPER), f"--fd={far.fileno()}"],
                    output=output,
                    pass_fds=[far.fileno()],
                    death_signal=signal.SIGTERM,
                )
        except BaseException:
            near.close()
            raise
        finally:
            far.close()
        self._connection = near

    def _arguments(self, *argv: str) -> list[str]:
        """For `enter.py`: into the root, then to the user, with the signal that ends it kept."""
        found = [f"--root={self._hypervisor.root}"]
        found += [f"--bind={path}" for path in self._binds]
        for source, target in self._places.items():
            found += ["--bind-at", str(source), str(target)]
        user = hypervisor.UID
        return [
            *(*found, "--"),
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
            *("--inh-caps=-all", "--pdeathsig=keep", *argv),
        ]

    def _ask(self, message: dict[str, object]) -> int:
        if self._connection is None:
            raise LabError(f"host {self.name} is off")
        self._connection.settimeout(_START_SECONDS)
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
            answer = self._connection.recv(4096)
        except OSError as error:
            raise LabError(f"the keeper of host {self.name}: {error}\n{tail(self.log)}") from error
        if not answer:
            raise LabError(f"the keeper of host {self.name} has ended\n{tail(self.log)}")
        return int(json.loads(answer)["pid"])

    def _wait_for_socket(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(self.socket_path):
            if _has_ended(self._daemon, 0.05):
                raise LabError(f"libvirtd ended instead of listening\n{tail(self.log)}")
            if time.monotonic() > deadline:
                raise GuestTimeout(
                    f"libvirtd did not listen within {_START_SECONDS:.0f} s\n{tail(self.log)}"
                )

    def _forget_daemon(self) -> None:
        if self._daemon >= 0:
            os.close(self._daemon)
            self._daemon = -1


def daemon_configuration(host_uuid: str, shared: Sequence[Path], address: str) -> dict[str, str]:
    """Libvirtd's files, by name."""
    folders = ", ".join(json.dumps(str(path)) for path in shared)
    return {
        "libvirtd.conf": (
            f'host_uuid = "{host_uuid}"\n'
            'auth_unix_ro = "none"\n'
            'auth_unix_rw = "none"\n'
            'log_outputs = "3:stderr"\n'
        ),
        "qemu.conf": (
            'stdio_handler = "file"\n'  # no virtlogd is there
            'security_driver = "none"\n'
            f"shared_filesystems = [ {folders} ]\n"
            # not 127.0.0.1, which libvirt refuses: it would be another machine for the source
            f'migration_host = "{address}"\n'
            f'migration_address = "{address}"\n'
        ),
    }


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(str(path))
        except OSError:
            return False
    return True


def _has_ended(pidfd: int, timeout: float) -> bool:
    ready, _, _ = select.select([pidfd], [], [], timeout)
    return bool(ready)
