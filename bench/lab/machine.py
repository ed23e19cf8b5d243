# SPDX-License-Identifier: LGPL-2.1-or-later
"""One run of QEMU: from power-on to power-off, with its console, its agent and its monitor."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab.channel import Channel
from bench.lab.errors import AgentError, GuestTimeout, LabError
from bench.lab.process import end, tail
from bench.lab.qmp import Monitor

if TYPE_CHECKING:
    from bench.lab.qemu import Qemu

_PORT_NAME = "org.hibprep.lab"


@dataclass(frozen=True)
class Hardware:
    """What stays the same over all runs of one guest."""

    kernel: Path
    initrd: Path
    root_disk: Path
    swap_disk: Path | None
    memory_bytes: int
    cpus: int
    disk_bytes_per_second: int
    kernel_command_line: str
    accelerator: tuple[str, ...]
    extra_arguments: tuple[str, ...] = ()
    disk_requests_per_second: int = 0  # 0: unlimited

    def arguments(
        self, console: Path, agent_fd: int, monitor_fd: int, ports: Mapping[str, int] | None = None
    ) -> list[str]:
        """QEMU's command line. ``ports``: descriptors of further virtio-serial ports, by name."""
        more: list[str] = []
        for number, (name, descriptor) in enumerate((ports or {}).items()):
            more += ["-chardev", f"socket,id=port{number},fd={descriptor}"]
            more += ["-device", f"virtserialport,id=port{number},chardev=port{number},name={name}"]
        disks: list[str] = []
        for disk in (self.root_disk, self.swap_disk):
            if disk is not None:
                disks += ["-drive", self._drive(disk)]
        return [
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *self.accelerator,
            *("-smp", str(self.cpus), "-m", f"{self.memory_bytes >> 20}M"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initrd)),
            *("-append", self.kernel_command_line),
            *("-serial", f"file:{console}"),
            # Sockets that are connected before QEMU starts: no paths, no waiting for a listener,
            # and both ends notice when the other dies.
            *("-chardev", f"socket,id=agent,fd={agent_fd}"),
            *("-device", "virtio-serial-pci"),
            *("-device", f"virtserialport,chardev=agent,name={_PORT_NAME}"),
            *more,
            *("-chardev", f"socket,id=monitor,fd={monitor_fd}"),
            *("-mon", "chardev=monitor,mode=control"),
            *("-device", "virtio-rng-pci"),
            *disks,
            *self.extra_arguments,
        ]

    def _drive(self, disk: Path) -> str:
        name = str(disk).replace(",", ",,")
        options = f"file={name},if=virtio,format=raw,cache=unsafe,discard=unmap"
        if self.disk_bytes_per_second:
            options += f",throttling.bps-total={self.disk_bytes_per_second}"
        if self.disk_requests_per_second:
            options += f",throttling.iops-total={self.disk_requests_per_second}"
        return options


class Machine:
    """A running QEMU."""

    def __init__(
        self,
        qemu: Qemu,
        hardware: Hardware,
        console: Path,
        log: Path,
        folders: Sequence[Path],
        *,
        ports: Sequence[str] = (),
    ) -> None:
        """``ports``: names of further virtio-serial ports; the host's ends are in `ports`."""
        self.console = console
        self._log = log
        agent, agent_far = socket.socketpair()
        monitor, monitor_far = socket.socketpair()
        pairs = {name: socket.socketpair() for name in ports}
        self.ports = {name: near for name, (near, _) in pairs.items()}
        far_ends = {name: far for name, (_, far) in pairs.items()}
        try:
            self.started = time.monotonic()
            self._process = qemu.launch(
                hardware.arguments(
                    console,
                    agent_far.fileno(),
                    monitor_far.fileno(),
                    {name: far.fileno() for name, far in far_ends.items()},
                ),
                log=log,
                folders=folders,
                sockets=(agent_far, monitor_far, *far_ends.values()),
            )
        except BaseException:
            for near in (agent, monitor, *self.ports.values()):
                near.close()
            raise
        finally:
            for far in (agent_far, monitor_far, *far_ends.values()):
                far.close()
        self._pidfd = os.pidfd_open(self._process.pid)
        self.channel = Channel(agent)
        self.monitor = Monitor(monitor)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU is still there."""
        return self._process.poll() is None

    def console_text(self) -> str:
        """All that the guest has printed on its serial console in this run."""
        try:
            return self.console.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_end(self, timeout: float) -> bool:
        """Wait for QEMU's end; whether it came in time."""
        ready, _, _ = select.select([self._pidfd], [], [], max(0.0, timeout))
        if ready:
            self._process.wait(30)
        return bool(ready)

    def first_answer(self, timeout: float) -> tuple[str, float]:
        """Wait for the agent: its identity, and the seconds since QEMU was started."""
        deadline = self.started + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                identity = self.channel.ping(max(0.1, min(left, 1.0)))
            except AgentError as error:
                self.wait_end(2)
                raise LabError(
                    f"QEMU ended before the guest answered (code {self._process.poll()}: {error})\n"
                    f"{tail(self._log)}\n{tail(self.console)}"
                ) from error
            except GuestTimeout:
                if left > 1.0:
                    continue
                raise GuestTimeout(
                    f"the guest did not answer within {timeout:.0f} s\n{tail(self.console)}"
                ) from None
            return identity, time.monotonic() - self.started

    def close(self) -> None:
        """End QEMU if it still runs, and the connections."""
        end(self._process, grace_seconds=0)
        self.channel.close()
        self.monitor.close()
        for port in self.ports.values():
            port.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
