# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways into a guest, best first, each tried in turn, and its use or refusal told with a reason.

1. hibprep in the guest, over its own virtio channel: it knows what is cold;
2. the guest agent, if it lets programs be run: hibprep there, or else sync and drop_caches;
3. nothing in the guest: the balloon has the guest's kernel drop its cache by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hibprep.clock import Clock
from hibprep.guests.agent import Agent, trim
from hibprep.guests.channel import Conversation
from hibprep.guests.errors import AgentRefusedError, ChannelError, NoAgentError
from hibprep.guests.hardware import AGENT_CHANNEL, CHANNEL, Hardware
from hibprep.guests.port import Domain
from hibprep.guests.waiting import Stopping


class RungName(StrEnum):
    """The ways of having a guest free memory."""

    CHANNEL = "hibprep in the guest"
    AGENT = "guest agent"
    BALLOON = "balloon alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One of them: whether it was used, what it did or why it did not. `report` is that of hibprep
    in the guest, as it came."""

    name: RungName
    used: bool
    reason: str
    seconds: float = 0.0
    guest_report: Mapping[str, object] | None = None


def offers(hardware: Hardware) -> tuple[Rung, ...]:
    """What the description lets hope for, without asking the guest: `used` says it could be."""
    return (
        Rung(
            name=RungName.CHANNEL,
            used=hardware.channel,
            reason="its port is there" if hardware.channel else _no_port(CHANNEL),
        ),
        Rung(
            name=RungName.AGENT,
            used=hardware.agent and hardware.agent_connected,
            reason=_no_port(AGENT_CHANNEL)
            if not hardware.agent
            else "connected"
            if hardware.agent_connected
            else "its port is there, and nobody in the guest has opened it",
        ),
        Rung(
            name=RungName.BALLOON,
            used=not hardware.why_no_balloon,
            reason=hardware.why_no_balloon or "a virtio balloon",
        ),
    )


def climb(
    domain: Domain, hardware: Hardware, *, clock: Clock, stop: Stopping, seconds: float
) -> tuple[Rung, ...]:
    """Have the guest free what it can by the first way that works, within `seconds`. The ways that
    were tried, in their order; the last one is used, unless none was."""
    tried = []
    end = clock.monotonic() + seconds
    for name in (RungName.CHANNEL, RungName.AGENT):
        began = clock.monotonic()
        if stop.requested() or began >= end:
            break
        try:
            how, report = _WAYS[name](domain, hardware, clock, stop, end - began)
            used = True
        except (ChannelError, NoAgentError, AgentRefusedError) as error:
            how, report, used = str(error), None, False
        tried.append(
            Rung(
                name=name,
                used=used,
                reason=how,
                seconds=clock.monotonic() - began,
                guest_report=report or None,
            )
        )
        if used:
            break
    return tuple(tried)


def _by_channel(
    domain: Domain, hardware: Hardware, clock: Clock, stop: Stopping, seconds: float
) -> tuple[str, Mapping[str, object]]:
    if not hardware.channel:
        raise ChannelError(_no_port(CHANNEL))
    with Conversation(domain.open_channel(CHANNEL), clock=clock, stop=stop) as conversation:
        version = conversation.hello()
        report = conversation.prepare(seconds=seconds, compact=_compacts(hardware))
    return f"hibprep {version} prepared it", report


def _by_agent(
    domain: Domain, hardware: Hardware, clock: Clock, stop: Stopping, seconds: float
) -> tuple[str, Mapping[str, object]]:
    if not hardware.agent:
        raise NoAgentError(_no_port(AGENT_CHANNEL))
    agent = Agent(domain, clock=clock, stop=stop)
    if why := agent.why_not():
        raise AgentRefusedError(why)
    return trim(agent, seconds=seconds, compact=_compacts(hardware))


_WAYS = {RungName.CHANNEL: _by_channel, RungName.AGENT: _by_agent}


def _compacts(hardware: Hardware) -> bool:
    """Compaction costs the guest some CPU, and gains something where whole blocks are reported."""
    return not hardware.why_no_reporting


def _no_port(name: str) -> str:
    return f"it has no virtio port {name} (<channel type='unix'> in its XML)"
