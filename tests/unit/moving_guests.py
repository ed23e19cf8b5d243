# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts with guests, for the tests of moving them."""

from __future__ import annotations

from dataclasses import dataclass, field

from hibprep.guests import record as records
from hibprep.guests.errors import ConnectionFailedError, GuestError
from hibprep.guests.means import Means
from hibprep.guests.port import Host
from hibprep.guests.progress import MoveProgress
from hibprep.guests.sides import Side
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeDomain, FakeHost, FakeStop, Faults, fake_means
from tests.fakes.libvirt_inside import FakeAgent
from tests.fakes.libvirt_memory import GuestMemory
from tests.waiting import until

LONG_SECONDS = 120.0  # in which everything in a guest has come to rest


@dataclass
class TwoHosts:
    """Host a, where the guests are, and host b, where they go."""

    clock: HandClock = field(default_factory=HandClock)
    faults: Faults = field(default_factory=Faults)
    told: list[MoveProgress] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.a = FakeHost(self.clock, "a", self.faults)
        self.b = FakeHost(self.clock, "b", self.faults)
        self.stop = FakeStop(self.clock)
        self.connected: list[str] = []

    def guest(self, name: str = "web", **what: object) -> FakeDomain:
        memory = GuestMemory(self.clock)
        what.setdefault("agent_inside", FakeAgent(self.clock, memory))
        domain = self.a.add(name, memory, **what)
        domain.peers = {self.b.uri: self.b}
        return domain

    def connect(self, uri: str) -> Host:
        self.connected.append(uri)
        host = {self.a.uri: self.a, self.b.uri: self.b}.get(uri)
        if host is None or host.why_unreachable is not None:
            raise ConnectionFailedError(f"{uri}: no route to host", "is it up?")
        return host

    def sides(self) -> tuple[Side, Side]:
        return Side(self.a.uri, self.connect), Side(self.b.uri, self.connect)

    def means(self, pid: int = 1) -> Means:
        """Of a process of its own: the others have ended."""
        return fake_means(self.clock, self.stop, pid)

    def interrupt(self) -> None:
        """Somebody presses Ctrl-C."""
        self.stop.at = self.clock.seconds

    def cut_off(self, host: FakeHost) -> None:
        """libvirtd of that host has died, and is not started again."""
        host.why_unreachable = GuestError("it is dead")
        host.faults = Faults(
            at=0, error=ConnectionFailedError(f"{host.uri}: the socket is closed"), once=False
        )

    def back(self, host: FakeHost) -> None:
        host.why_unreachable = None
        host.faults = Faults()

    def where(self, name: str = "web") -> FakeDomain:
        """The domain that runs; there is one, and only one."""
        found = [
            host.all[name]
            for host in (self.a, self.b)
            if name in host.all and host.all[name].active
        ]
        assert len(found) == 1, found
        return found[0]

    def rest(self, name: str = "web") -> FakeDomain:
        domain = self.where(name)
        self.clock.go_on(LONG_SECONDS)
        domain.memory.catch_up()
        return domain

    def assert_as_before(self, name: str = "web") -> None:
        """At full size on the host that it runs on, and nothing of ours anywhere."""
        domain = self.rest(name)
        assert domain.memory.actual == domain.memory.maximum
        assert domain.memory.target == domain.memory.maximum
        for host in (self.a, self.b):
            if name in host.all:
                assert records.NAMESPACE not in host.all[name].live
                assert records.NAMESPACE not in host.all[name].configured

    def is_small(self, name: str = "web") -> bool:
        domain = self.where(name)
        return domain.memory.actual < domain.memory.maximum


def until_aborted(domain: FakeDomain) -> None:
    until(lambda: domain.aborted, "the job is aborted")
