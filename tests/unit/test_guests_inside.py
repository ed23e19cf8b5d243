# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways into a guest: the agent, hibprep's channel, and which of them is taken."""

from __future__ import annotations

import pytest

from hibprep.guests.agent import Agent
from hibprep.guests.channel import Conversation
from hibprep.guests.errors import AgentRefusedError, ChannelError, NoAgentError
from hibprep.guests.hardware import Hardware
from hibprep.guests.ladder import Rung, RungName, climb, offers
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeDomain, FakeHost, FakeStop
from tests.fakes.libvirt_inside import AgentMood, ChannelMood, FakeAgent, FakeChannel
from tests.fakes.libvirt_memory import MIB, GuestMemory

BOTH = Hardware(balloon=True, agent=True, agent_connected=True, channel=True)
REPORTING = Hardware(balloon=True, agent=True, agent_connected=True, free_page_reporting=True)


class Guest:
    """One that runs, with somebody inside."""

    def __init__(
        self,
        mood: AgentMood = AgentMood.WELL,
        channel: ChannelMood | None = None,
        hardware: Hardware = BOTH,
        *,
        hibprep: bool = False,
    ) -> None:
        self.clock = HandClock()
        self.memory = GuestMemory(self.clock)
        self.agent = FakeAgent(self.clock, self.memory, mood, hibprep=hibprep)
        self.channel = FakeChannel(self.clock, self.memory, channel) if channel else None
        self.domain: FakeDomain = FakeHost(self.clock).add(
            "web",
            self.memory,
            hardware=hardware,
            agent_inside=self.agent,
            channel_inside=self.channel,
        )
        self.stop = FakeStop(self.clock)

    def climb(self, seconds: float = 30.0) -> tuple[Rung, ...]:
        began = self.clock.seconds
        found = climb(
            self.domain,
            self.domain.hardware,
            clock=self.clock,
            stop=self.stop,
            seconds=seconds,
        )
        assert self.clock.seconds - began <= seconds + 40, "every wait has a deadline"
        return found

    def talk(self) -> Conversation:
        assert self.channel is not None
        return Conversation(self.channel.open(), clock=self.clock, stop=self.stop)


# --- the agent ------------------------------------------------------------------------------------


def test_it_drops_the_caches() -> None:
    guest = Guest(hardware=Hardware(balloon=True, agent=True))
    (channel, agent) = guest.climb()
    assert not channel.used
    assert "no virtio port org.hibprep.0" in channel.reason
    assert agent.used
    assert "hibprep is not there" in agent.reason
    assert guest.memory.cache == 0
    assert [words[0] for words in guest.agent.commands] == ["hibprep", "sync", "tee"]


def test_it_compacts_where_whole_blocks_are_reported() -> None:
    guest = Guest(hardware=REPORTING)
    assert "then compacted" in guest.climb()[-1].reason
    assert guest.memory.compacted


def test_hibprep_there_does_it_better() -> None:
    guest = Guest(hibprep=True, hardware=REPORTING)
    agent = guest.climb()[-1]
    assert agent.guest_report is not None
    assert agent.guest_report["ending"] == "done"
    words = guest.agent.commands[0]
    assert words[:4] == ("hibprep", "prepare", "--target", "min")
    # what is in use stays in memory: the guest goes on working
    assert words[words.index("--stages") + 1] == "sync,cache,slab,cold-anon"


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (AgentMood.SILENT, "does not answer"),
        (AgentMood.BLOCKED, "blocks guest-exec"),
        (AgentMood.HANGS, "not done after"),
        (AgentMood.DIES, "does not answer"),
        (AgentMood.WINDOWS, "Windows"),
    ],
)
def test_it_says_why_it_does_not(mood: AgentMood, said: str) -> None:
    guest = Guest(mood)
    agent = guest.climb(10.0)[-1]
    assert agent.name is RungName.AGENT
    assert not agent.used
    assert said in agent.reason
    assert guest.memory.cache == 400 * MIB


def test_a_program_that_hangs_is_waited_for_no_longer_than_its_limit() -> None:
    guest = Guest(AgentMood.HANGS)
    agent = Agent(guest.domain, clock=guest.clock, stop=guest.stop)
    began = guest.clock.seconds
    assert agent.run(("sync",), seconds=3).code == 124
    assert guest.clock.seconds - began < 5


def test_a_stop_is_heard_while_a_program_runs() -> None:
    guest = Guest(AgentMood.HANGS)
    guest.stop.at = guest.clock.seconds + 1
    agent = Agent(guest.domain, clock=guest.clock, stop=guest.stop)
    with pytest.raises(NoAgentError, match="SIGINT"):
        agent.run(("sync",), seconds=60)
    assert guest.clock.seconds < guest.stop.at + 1


def test_without_an_agent() -> None:
    guest = Guest(hardware=Hardware(balloon=True))
    assert [rung.used for rung in guest.climb()] == [False, False]
    assert "org.qemu.guest_agent.0" in guest.climb()[1].reason


@pytest.mark.parametrize("answer", [None, [], "text", {"pid": "7"}])
def test_odd_answers_are_errors_of_ours(answer: object) -> None:
    guest = Guest()
    guest.agent.ask = lambda *_asked: answer  # type: ignore[method-assign]
    agent = Agent(guest.domain, clock=guest.clock, stop=guest.stop)
    with pytest.raises(NoAgentError):
        agent.run(("sync",), seconds=1)
    assert agent.why_not()


def test_a_refusal_in_the_guest_is_told() -> None:
    guest = Guest()
    agent = Agent(guest.domain, clock=guest.clock, stop=guest.stop)
    guest.agent.mood = AgentMood.BLOCKED
    with pytest.raises(AgentRefusedError, match="disabled"):
        agent.run(("sync",), seconds=1)


# --- hibprep's channel ----------------------------------------------------------------------------


def test_hello_and_prepare() -> None:
    guest = Guest(channel=ChannelMood.WELL)
    with guest.talk() as talk:
        assert talk.hello() == "0.1.0"
        assert talk.prepare(seconds=20, compact=True) == {"ending": "done"}
    assert guest.channel is not None
    assert guest.channel.closed
    request = guest.channel.heard[1]
    assert (request["target"], request["timeout_seconds"], request["compact"]) == ("min", 20, True)
    assert guest.memory.cache == 0


def test_what_a_killed_host_left_is_thrown_away() -> None:
    guest = Guest(channel=ChannelMood.LEFTOVERS)
    with guest.talk() as talk:
        assert talk.hello() == "0.1.0"
        assert talk.prepare(seconds=20, compact=False) == {"ending": "done"}


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (ChannelMood.SILENT, "nobody answers"),
        (ChannelMood.GARBAGE, "nobody answers"),
        (ChannelMood.IN_USE, "Active channel stream"),
        (ChannelMood.REFUSES, "prepare: busy"),
        (ChannelMood.CLOSES, "closed"),
        (ChannelMood.NEVER_DONE, "not done after"),
    ],
)
def test_the_agent_is_next(mood: ChannelMood, said: str) -> None:
    guest = Guest(channel=mood)
    channel, *others = guest.climb(10.0)
    assert (channel.name, channel.used) == (RungName.CHANNEL, False)
    assert said in channel.reason
    # where the channel has taken all the time there is none left
    assert [rung.used for rung in others] == ([] if mood is ChannelMood.NEVER_DONE else [True])


def test_the_channel_goes_before_the_agent() -> None:
    guest = Guest(channel=ChannelMood.WELL)
    (only,) = guest.climb()
    assert (only.name, only.used) == (RungName.CHANNEL, True)
    assert not guest.agent.commands


def test_a_stop_is_handed_on_to_the_guest() -> None:
    guest = Guest(channel=ChannelMood.WELL)
    assert guest.channel is not None
    guest.channel.seconds = 100.0
    guest.stop.at = guest.clock.seconds + 3
    with guest.talk() as talk:
        talk.hello()
        assert talk.prepare(seconds=60, compact=False) == {"ending": "done"}
    assert {request["do"] for request in guest.channel.heard} >= {"stop"}
    assert guest.clock.seconds < guest.stop.at + 10


def test_one_that_cannot_prepare_says_so() -> None:
    guest = Guest(channel=ChannelMood.WELL)
    with guest.talk() as talk, pytest.raises(ChannelError, match="does not prepare"):
        talk.prepare(seconds=1, compact=False)


# --- what is offered ------------------------------------------------------------------------------


def test_offers_ask_nobody() -> None:
    guest = Guest(channel=ChannelMood.WELL)
    calls = guest.domain.host.faults.calls
    assert [rung.used for rung in offers(BOTH)] == [True, True, True]
    assert [rung.used for rung in offers(Hardware())] == [False, False, False]
    assert all(rung.reason for rung in offers(Hardware()))
    assert guest.domain.host.faults.calls == calls
