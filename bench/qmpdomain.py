# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest of the lab as `hibprep.guests` sees a domain: by QMP and the guest agent alone.

So what is measured is what hibprep does with any guest, without a libvirt, and without a second
host: a migration goes to a program that throws it away, and the guest goes on where it was.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.agentport import AgentPort
from bench.channelport import ChannelPort
from bench.lab import Guest, GuestTimeout, LabError
from hibprep.guests import port
from hibprep.guests.errors import ChannelError, NoAgentError, UnsupportedError
from hibprep.guests.hardware import AGENT_CHANNEL, Hardware
from hibprep.kernel import guestram
from hibprep.kernel.root import KernelRoot

DEVICE = "balloon0"
_PATH = f"/machine/peripheral/{DEVICE}"
_UNKNOWN = (1 << 64) - 1  # what QEMU shows of a figure that the guest has not told
_LOOK_SECONDS = 0.1
_MIGRATE_SECONDS = 600.0

# name here -> in QEMU's guest-stats (docs/interop/virtio-balloon-stats.rst)
_STATS = {
    "available_bytes": "stat-total-memory",
    "unused_bytes": "stat-free-memory",
    "usable_bytes": "stat-available-memory",
    "disk_caches_bytes": "stat-disk-caches",
    "swap_in_bytes": "stat-swap-in",
    "swap_out_bytes": "stat-swap-out",
    "major_faults": "stat-major-faults",
}


def device_arguments(*, reporting: bool) -> tuple[str, ...]:
    """QEMU's balloon device: libvirt's default, or with free page reporting."""
    switch = "on" if reporting else "off"
    return ("-device", f"virtio-balloon-pci,id={DEVICE},free-page-reporting={switch}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One migration, by QEMU's own counters (query-migrate). Pages are of 4 KiB."""

    bytes: int
    normal_pages: int
    zero_pages: int
    rounds: int
    seconds: float
    downtime_seconds: float


class QmpDomain:
    """`hibprep.guests.port.Domain`, as far as a guest without libvirt can be one."""

    def __init__(
        self,
        guest: Guest,
        *,
        reporting: bool,
        agent: bool = False,
        channel: socket.socket | None = None,
    ) -> None:
        """``agent``: the guest was started with the guest agent's port (`Guest.ports`).
        ``channel``: the host's end of hibprep's own."""
        self._guest = guest
        self._metadata: dict[str, str] = {}
        self._agent = AgentPort(guest.port(AGENT_CHANNEL)) if agent else None
        self._hardware = Hardware(
            balloon=True,
            free_page_reporting=reporting,
            agent=agent,
            agent_connected=agent,
            channel=channel is not None,
            emulated=guest.accelerator.startswith("tcg"),
        )
        self._channel = None if channel is None else ChannelPort(channel)
        self._uuid = str(uuid.uuid4())

    @property
    def name(self) -> str:
        """Of the bench's only guest."""
        return "bench"

    @property
    def uuid(self) -> str:
        """Of this run."""
        return self._uuid

    def info(self) -> port.DomainInfo:
        """As it is now."""
        return port.DomainInfo(
            name=self.name,
            uuid=self.uuid,
            state=port.DomainState.RUNNING if self._guest.running else port.DomainState.SHUT_OFF,
            persistent=False,
            maximum_bytes=self._guest.memory_bytes,
            actual_bytes=self._actual_bytes(),
            has_managed_save=False,
            hardware=self._hardware,
        )

    def xml(self) -> str:
        """There is no XML without libvirt."""
        raise UnsupportedError("a guest of the bench has no description")

    # memory

    def memory_stats(self) -> port.MemoryStats:
        """As it is now."""
        found = self._guest.monitor("qom-get", path=_PATH, property="guest-stats")
        return stats_of(found, self._actual_bytes(), resident_bytes(self._guest.pid))

    def content_bytes(self) -> int | None:
        """As it is now."""
        return guestram.content_bytes(KernelRoot(), self._guest.pid, self._guest.memory_bytes)

    def set_stats_period(self, seconds: int) -> None:
        """Have the guest tell its statistics so often."""
        self._guest.monitor(
            "qom-set", path=_PATH, property="guest-stats-polling-interval", value=seconds
        )
        self._hardware = replace(self._hardware, stats_period_seconds=seconds)

    def set_balloon(self, actual_bytes: int) -> None:
        """Ask the guest to come to that size."""
        self._guest.monitor("balloon", value=actual_bytes)

    # metadata

    def metadata(self, uri: str) -> str | None:
        """What was kept under it."""
        return self._metadata.get(uri)

    def set_metadata(self, uri: str, prefix: str, xml: str) -> None:  # noqa: ARG002 - libvirt's
        """Keep it for as long as this object."""
        self._metadata[uri] = xml

    def remove_metadata(self, uri: str) -> None:
        """Forget it."""
        self._metadata.pop(uri, None)

    # the guest

    def agent(self, command: str, arguments: Mapping[str, object], timeout_seconds: int) -> object:
        """What the guest agent returns."""
        if self._agent is None:
            raise NoAgentError("this guest was started without the guest agent's port")
        return self._agent.ask(command, arguments, timeout_seconds)

    def open_channel(self, name: str) -> port.Channel:
        """The host's end of hibprep's own port."""
        if self._channel is None:
            raise ChannelError(f"this guest has no port {name}")
        return self._channel

    # moving

    def start(self) -> None:
        """It is booted by the lab."""
        raise UnsupportedError("a guest of the bench is booted by the lab")

    def managed_save(self, *, bypass_cache: bool = False) -> None:  # noqa: ARG002
        """That is libvirt's."""
        raise UnsupportedError("a managed save is libvirt's")

    def remove_managed_save(self) -> None:
        """That is libvirt's."""
        raise UnsupportedError("a managed save is libvirt's")

    def migrate(
        self,
        destination: port.Host | None,
        uri: str,
        options: port.MigrateOptions,  # noqa: ARG002 - the port's
    ) -> port.Domain | None:
        """There is no other host: see `send`."""
        raise UnsupportedError(f"there is no other host, neither {destination} nor {uri}")

    def start_postcopy(self) -> None:
        """There is nobody to fetch pages."""
        raise UnsupportedError("a migration of the bench goes nowhere")

    def set_migrate_bandwidth(self, bytes_per_second: int) -> None:
        """Of the migrations to come."""
        self._guest.monitor("migrate-set-parameters", **{"max-bandwidth": bytes_per_second})

    def job(self) -> port.JobStats:
        """None runs while somebody else is asked: `send` returns when it has ended."""
        return port.NO_JOB

    def completed_job(self) -> port.JobStats:
        """Nobody keeps it."""
        return port.NO_JOB

    def abort_job(self) -> None:
        """Cancel a migration; no error where there is none."""
        self._guest.monitor("migrate_cancel")

    def send(self, timeout: float = _MIGRATE_SECONDS) -> Sent:
        """Migrate to nowhere, and go on here: QEMU keeps the guest stopped until it is told to."""
        self._guest.monitor("migrate", uri="exec:cat > /dev/null")
        deadline = time.monotonic() + timeout
        while True:
            found = self._guest.monitor("query-migrate")
            status = found.get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled"):
                raise LabError(
                    f"the migration {status}: {found.get('error-desc', 'nobody says why')}"
                )
            if time.monotonic() > deadline:
                self.abort_job()
                raise GuestTimeout(f"the migration had not ended after {timeout:.0f} s")
            time.sleep(_LOOK_SECONDS)
        self._guest.monitor("cont")
        return sent_of(found)

    def _actual_bytes(self) -> int:
        return int(self._guest.monitor("query-balloon")["actual"])


def stats_of(found: Mapping[str, Any], actual_bytes: int, rss_bytes: int) -> port.MemoryStats:
    """From QEMU's guest-stats."""
    told = {
        name: int(value)
        for name, key in _STATS.items()
        if (value := found["stats"].get(key, _UNKNOWN)) not in (_UNKNOWN, -1)
    }
    return port.MemoryStats(
        actual_bytes=actual_bytes,
        rss_bytes=rss_bytes,
        last_update=int(found["last-update"]),
        **told,
    )


def sent_of(found: Mapping[str, Any]) -> Sent:
    """From the answer to query-migrate when it has ended."""
    ram = found["ram"]
    return Sent(
        bytes=int(ram["transferred"]),
        normal_pages=int(ram["normal"]),
        zero_pages=int(ram["duplicate"]),
        rounds=int(ram["dirty-sync-count"]),
        seconds=found["total-time"] / 1000,
        downtime_seconds=found["downtime"] / 1000,
    )


def resident_bytes(pid: int) -> int:
    """How much of a process is in memory (proc(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise LabError(f"process {pid} has no memory of its own any more")
