# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with one guest that is prepared and put back, all of it of fakes."""

from __future__ import annotations

from dataclasses import replace

from hibprep.guests.hardware import Hardware
from hibprep.guests.means import Means
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.record import NAMESPACE, Record, from_xml
from hibprep.guests.report import GuestProgress, GuestReport
from hibprep.guests.undo import Undone, undo
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeDomain, FakeHost, FakeStop, fake_means
from tests.fakes.libvirt_inside import AgentMood, FakeAgent
from tests.fakes.libvirt_memory import MIB, GuestMemory

PLAIN = Hardware(balloon=True, agent=True, agent_connected=True)
REPORTING = replace(PLAIN, free_page_reporting=True)
OPTIONS = Options()


class Setting:
    """A host with one guest."""

    def __init__(
        self,
        hardware: Hardware = PLAIN,
        mood: AgentMood | None = AgentMood.WELL,
        *,
        hibprep: bool = False,
        **memory: int,
    ) -> None:
        self.clock = HandClock()
        self.memory = GuestMemory(self.clock, **memory)  # type: ignore[arg-type]
        self.host = FakeHost(self.clock)
        agent = None
        if mood is not None:
            agent = FakeAgent(self.clock, self.memory, mood, hibprep=hibprep, cold=50 * MIB)
        self.domain: FakeDomain = self.host.add(
            "web", self.memory, hardware=hardware, agent_inside=agent
        )
        self.stop = FakeStop(self.clock)
        self.said: list[GuestProgress] = []

    def means(self, pid: int = 100) -> Means:
        return fake_means(self.clock, self.stop, pid)

    def prepare(self, options: Options = OPTIONS, pid: int = 100) -> GuestReport:
        return prepare(self.domain, options, self.means(pid), self.said.append)

    def undo(self, pid: int = 200) -> Undone:
        return undo(self.domain, fake_means(self.clock, pid=pid))

    @property
    def record(self) -> Record | None:
        xml = self.domain.live.get(NAMESPACE)
        return None if xml is None else from_xml(xml)

    def must_be_as_before(self, size: int | None = None, period: int = 0) -> None:
        assert self.memory.actual >= (size or self.memory.maximum)
        assert self.memory.target >= (size or self.memory.maximum)
        assert self.memory.period == period
        assert NAMESPACE not in self.domain.live
        assert NAMESPACE not in self.domain.configured
