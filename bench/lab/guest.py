# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that is booted, talked to, hibernated and resumed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bench.lab import qemu as qemu_module
from bench.lab import remote as remote_module
from bench.lab.console import ConsoleFacts, parse_console
from bench.lab.disks import WorkFolder
from bench.lab.errors import (
    CommandFailed,
    GuestTimeout,
    HibernationFailed,
    HibernationRefused,
    LabError,
    ResumeFailed,
)
from bench.lab.install import install_wheel
from bench.lab.machine import Hardware, Machine
from bench.lab.process import tail
from bench.lab.request import HibernateTiming, Request
from bench.lab.results import Result
from bench.lab.storage import Storage

if TYPE_CHECKING:
    from bench.lab.images import Image

MiB = 1 << 20
GiB = 1 << 30

_KERNEL_WORDS = (
    *("root=/dev/vda", "rw", "console=ttyS0", "cryptomgr.notests"),
    *("systemd.show_status=no", "audit=0"),
)
_LOOK_SECONDS = 2.0
_SLEEP_UNITS = (
    "systemd-hibernate.service",
    "systemd-hybrid-sleep.service",
    "systemd-suspend-then-hibernate.service",
)

Progress = Callable[[str], None]


class Guest:
    """A guest on its own disks. Use it in a ``with`` statement: its end ends all it started."""

    def __init__(
        self,
        image: Image,
        *,
        memory_bytes: int = 2 * GiB,
        cpus: int = 2,
        swap_bytes: int | None = None,
        swap_file: bool = False,
        root_bytes: int | None = None,
        disk_bytes_per_second: int = 100 * MiB,
        disk_requests_per_second: int = 0,
        work_dir: Path | None = None,
        kernel_arguments: Sequence[str] = (),
        qemu_arguments: Sequence[str] = (),
        ports: Sequence[str] = (),
        translated_bytes: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """``swap_bytes``: None for twice the memory, 0 for a guest without swap.

        ``swap_file``: swap to a file of the root file system instead of a disk of its own.
        ``root_bytes``: at least so large is the root disk, not counting the swap file.
        ``disk_bytes_per_second``, ``disk_requests_per_second``: for each disk; 0 for unlimited.
        ``ports``: names of further virtio-serial ports, for `port`.
        ``translated_bytes``: how much translated code an emulator keeps, in whole MiB; 0 for its
        own choice, which may be more than the guest's memory.
        """
        self.image = image
        self.memory_bytes = memory_bytes
        self.swap_bytes = 2 * memory_bytes if swap_bytes is None else swap_bytes
        self._storage = Storage(
            root_bytes=root_bytes, swap_bytes=self.swap_bytes, swap_file=swap_file
        )
        self._progress = progress or (lambda _: None)
        self._folder: WorkFolder | None = None
        self._work_dir = work_dir
        self._cpus = cpus
        self._rate = disk_bytes_per_second
        self._requests = disk_requests_per_second
        self._kernel_arguments = tuple(kernel_arguments)
        self._qemu_arguments = tuple(qemu_arguments)
        self._ports = tuple(ports)
        self._translated_bytes = translated_bytes
        self._qemu: qemu_module.Qemu | None = None
        self._hardware: Hardware | None = None
        self._machine: Machine | None = None
        self._consoles: list[Path] = []
        self._identity: str | None = None
        self._request: Request | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- its life ------------------------------------------------------------------------------

    def start(self, timeout: float = 180) -> float:
        """Boot from the untouched image; seconds from QEMU's start to the agent's first answer."""
        if self._folder is not None:
            raise LabError("this guest was started already", "resume() or restart() it")
        self._prepare()
        return self._boot(timeout)

    def restart(self, timeout: float = 180) -> float:
        """Boot again from its disks as they are, after kill(); not meant to find an image there."""
        self.kill()
        return self._boot(timeout)

    def resume(self, timeout: float = 180) -> float:
        """Power on after a hibernation; seconds from QEMU's start to the agent's first answer."""
        expected = self._identity
        self.kill()
        identity, seconds = self._power_on(timeout)
        if identity != expected:
            self._identity = identity
            raise ResumeFailed(
                "the guest booted afresh instead of resuming\n" + self.console_tail(40)
            )
        return seconds

    def hibernate(
        self, argv: Sequence[str] = ("systemctl", "hibernate"), timeout: float = 300
    ) -> HibernateTiming:
        """Run argv, which is to hibernate the guest, and wait until the machine is off."""
        machine = self._running()
        offset = len(machine.console_text())
        started = time.monotonic()
        deadline = started + timeout
        said: list[tuple[float, str]] = []
        tag, future = machine.channel.post(
            "run",
            follower=lambda line: said.append((time.monotonic() - started, line)),
            argv=list(argv),
            timeout=timeout,
        )
        request = self._request = Request(tuple(argv), tag, future, len(self._consoles) - 1, offset)
        look = started + _LOOK_SECONDS
        while not machine.wait_end(0.05):
            if request.result is None and request.is_answered:
                answer = request.answer(machine.channel)
                if answer.returncode != 0:
                    raise HibernationRefused(request.argv, answer)
                look = time.monotonic() + _LOOK_SECONDS
            if request.result is not None and time.monotonic() >= look:
                self._expect_sleep(request, deadline)
                look = time.monotonic() + _LOOK_SECONDS
            if time.monotonic() > deadline:
                raise GuestTimeout(
                    f"still running {timeout:.0f} s after {' '.join(argv)}\n{self.console_tail()}"
                )
        seconds = time.monotonic() - started
        return HibernateTiming(seconds, self.hibernation_facts(), tuple(said))

    def hibernation_result(self, timeout: float = 120) -> Result:
        """What the hibernating command answered, be it before power-off or after resume."""
        if self._request is None:
            raise LabError("this guest has not been asked to hibernate")
        try:
            return self._request.collect(self._running().channel, timeout)
        except GuestTimeout as error:
            raise GuestTimeout(f"{error.message}\n{self.console_tail()}") from None

    def wait_off(self, timeout: float) -> float:
        """Wait for the machine to switch itself off; the seconds it took."""
        started = time.monotonic()
        if not self._running().wait_end(timeout):
            raise GuestTimeout(f"still running after {timeout:.0f} s\n{self.console_tail()}")
        return time.monotonic() - started

    def kill(self) -> None:
        """Cut the power."""
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    def close(self) -> None:
        """Cut the power and remove the disks."""
        self.kill()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    # -- talking to it -------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        input: bytes | None = None,  # noqa: A002  # subprocess calls it so
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> Result:
        """Run a command as root to its end. It is killed, with its group, after ``timeout``."""
        channel = self._running().channel
        try:
            result = remote_module.run(channel, argv, timeout=timeout, given=input, environment=env)
        except GuestTimeout as error:
            raise GuestTimeout(
                f"{' '.join(argv)}: {error.message}\n{self.console_tail()}"
            ) from None
        if check and result.returncode != 0:
            raise CommandFailed(tuple(argv), result)
        return result

    def put(self, local: Path | bytes, remote: str, mode: int = 0o644) -> None:
        """Write a file of the guest, whole or not at all."""
        data = local if isinstance(local, bytes) else local.read_bytes()
        remote_module.put(self._running().channel, data, remote, mode)

    def get(self, remote: str) -> bytes:
        """Read a file of the guest."""
        return remote_module.get(self._running().channel, remote)

    def read(self, remote: str) -> str:
        """Read a text file of the guest, such as those of /proc and /sys."""
        return self.get(remote).decode(errors="replace")

    def ping(self, timeout: float = 30) -> float:
        """Ask the agent for a sign of life; the seconds it took."""
        started = time.monotonic()
        self._running().channel.ping(timeout)
        return time.monotonic() - started

    def install(self, wheel: Path) -> None:
        """Install a wheel whose requirements are in the image, with its commands."""
        install_wheel(self, wheel)

    def monitor(self, command: str, **arguments: object) -> Any:  # noqa: ANN401  # JSON
        """Run a QMP command, such as ``system_wakeup`` or ``system_powerdown``."""
        return self._running().monitor.execute(command, arguments)

    def port(self, name: str) -> socket.socket:
        """The host's end of one of the ``ports``, until the next power-off."""
        return self._running().ports[name]

    # -- looking at it -------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether its QEMU is running."""
        return self._machine is not None and self._machine.running

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self._running().pid

    @property
    def accelerator(self) -> str:
        """What runs its code, as QEMU is told, such as ``tcg,thread=multi``; "" before start()."""
        return self._hardware.accelerator[1] if self._hardware is not None else ""

    def throttle(self, disk_bytes_per_second: int) -> None:
        """Give each disk another rate until the next power-on, in any number of requests; 0 for
        unlimited."""
        for block in self.monitor("query-block"):
            limits = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
            self.monitor(
                "block_set_io_throttle", device=block["device"], bps=disk_bytes_per_second, **limits
            )

    @property
    def consoles(self) -> list[str]:
        """The text of the serial console, one for each time it was powered on."""
        return [
            path.read_text(errors="replace") if path.exists() else "" for path in self._consoles
        ]

    @property
    def console(self) -> str:
        """The text of the serial console since it was last powered on."""
        return self.consoles[-1] if self._consoles else ""

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of the serial console, for error messages."""
        return tail(self._consoles[-1], lines) if self._consoles else "(it was never powered on)"

    def hibernation_facts(self) -> ConsoleFacts:
        """What the kernel said about the last hibernation, and after resume about reading it."""
        if self._request is None:
            return ConsoleFacts()
        here, *later = self.consoles[self._request.console_index :]
        facts = parse_console(here[self._request.console_offset :])
        if later:
            after = parse_console(later[0])
            facts = facts.merged(
                ConsoleFacts(
                    read_bytes=after.read_bytes,
                    read_seconds=after.read_seconds,
                    failure=after.failure,
                )
            )
        return facts

    # -- inside --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._qemu = qemu_module.find(self._progress)
        accelerator = qemu_module.accelerator(self._qemu, self.image, self._progress)
        if self._translated_bytes and accelerator[1].startswith("tcg"):
            size = f"tb-size={self._translated_bytes // MiB}"
            accelerator = (accelerator[0], f"{accelerator[1]},{size}", *accelerator[2:])
        self._folder = WorkFolder(self._work_dir)
        root_disk, swap_disk = self._storage.make_disks(self.image.root, self._folder.path)
        self._hardware = Hardware(
            kernel=self.image.kernel,
            initrd=self.image.initrd,
            root_disk=root_disk,
            swap_disk=swap_disk,
            memory_bytes=self.memory_bytes,
            cpus=self._cpus,
            disk_bytes_per_second=self._rate,
            kernel_command_line="",  # known at power-on
            accelerator=accelerator,
            extra_arguments=self._qemu_arguments,
            disk_requests_per_second=self._requests,
        )

    def _power_on(self, timeout: float) -> tuple[str, float]:
        if self._folder is None or self._hardware is None or self._qemu is None:
            raise LabError("this guest was never started", "start() it first")
        console = self._folder.path / f"console-{len(self._consoles)}.log"
        words = [*_KERNEL_WORDS, *self._storage.kernel_words(), *self._kernel_arguments]
        self._machine = Machine(
            self._qemu,
            replace(self._hardware, kernel_command_line=" ".join(words)),
            console,
            self._folder.path / "qemu.log",
            [self.image.root.parent, self._folder.path],
            ports=self._ports,
        )
        self._consoles.append(console)
        return self._machine.first_answer(timeout)

    def _boot(self, timeout: float) -> float:
        self._identity, seconds = self._power_on(timeout)
        self._request = None
        self._storage.set_up(self)
        return seconds

    def _running(self) -> Machine:
        if self._machine is None or not self._machine.running:
            raise LabError(f"the guest is not running\n{self.console_tail()}")
        return self._machine

    def _expect_sleep(self, request: Request, deadline: float) -> None:
        """Raise if the accepted request has come to nothing: the unit that sleeps has failed."""
        argv = ["systemctl", "show", "-P", "ActiveState", *_SLEEP_UNITS]
        left = max(1.0, deadline - time.monotonic())
        try:
            states = self.run(argv, timeout=left).text.split()
            said = self._running().console_text()[request.console_offset :]
            if "failed" not in states and "hibernation exit" not in said:
                return
            units = [word for name in _SLEEP_UNITS for word in ("-u", name)]
            log = self.run(["journalctl", "-n", "20", *units], timeout=60).text
        except LabError:
            return  # it went away while being asked, as it should; or the deadline will tell
        raise HibernationFailed(f"the guest is still running:\n{log}\n{self.console_tail()}")
