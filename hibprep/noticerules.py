# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what is done on a notice, in which order, and how much of the time each may take.

What is announced comes at its time whatever is done until then, so the time that is left is
shared out in advance: a preparation has what those that follow it do not need. Shares are worked
out anew before each action, since the one before may have taken less.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hibprep.notices import Notice, NoticeKind, ProviderName


class Deed(StrEnum):
    """What can be done on a notice."""

    PREPARE = "prepare"  # take memory, as far as the time goes
    SWAPIN = "swapin"  # bring it back
    RUN = "run"  # a command of the administrator's
    HIBERNATE = "hibernate"  # prepare, and hibernate
    ASIDE = "aside"  # stop all of ours, write what is dirty, hold nothing back
    ACKNOWLEDGE = "acknowledge"  # tell the provider that it may begin
    WEBHOOK = "webhook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One action, and for which notices. `reason` is for people: its place in the file, or why it
    is a default."""

    deed: Deed
    reason: str
    kinds: tuple[NoticeKind, ...]
    providers: tuple[ProviderName, ...] = ()  # empty: all
    keep_seconds: float | None = None  # of PREPARE; None: what follows needs
    timeout_seconds: float | None = None
    command: tuple[str, ...] = ()
    url: str = ""
    credential: str = ""

    @property
    def needs_seconds(self) -> float:
        """What is kept for it. A preparation takes what is left, and how long a hibernation takes
        is predicted (`hibprep.deadline`)."""
        if self.deed in (Deed.PREPARE, Deed.HIBERNATE):
            return 0.0
        return _USUAL_SECONDS[self.deed] if self.timeout_seconds is None else self.timeout_seconds


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the time an action may take; None: as long as it takes. `skip` says why it is
    not begun at all, "" when it is."""

    seconds: float | None
    skip: str = ""


# where a rule does not say
_USUAL_SECONDS = {
    Deed.SWAPIN: 30.0,
    Deed.RUN: 30.0,
    Deed.ASIDE: 10.0,
    Deed.ACKNOWLEDGE: 5.0,
    Deed.WEBHOOK: 5.0,
}
LEAST_SECONDS = 0.5  # a preparation of less frees nothing
# A notice that is first heard of so long after its time is of something that did not happen: AWS
# leaves the time of a termination that has failed in its place.
STALE_SECONDS = 600.0

_EC2_HIBERNATES = (
    "EC2 hibernates by itself, and begins as it announces it: what is left to do is to be out of "
    "its way"
)
_EARLY = "at risk, and not decided: what is prepared now need not be later"
_MOVED = "what is prepared is less to be copied, or to be brought up to date after it"
_SLEEPS = "what is prepared is less to be written"
_ENDS = (
    "memory is lost whatever is done; the disk belongs to the services that have to stop in time"
)

DEFAULTS: tuple[Rule, ...] = (
    Rule(
        deed=Deed.ASIDE,
        reason=_EC2_HIBERNATES,
        kinds=(NoticeKind.HIBERNATE,),
        providers=(ProviderName.AWS,),
    ),
    Rule(
        deed=Deed.PREPARE,
        reason=_SLEEPS,
        kinds=(NoticeKind.HIBERNATE,),
        providers=tuple(name for name in ProviderName if name is not ProviderName.AWS),
    ),
    Rule(deed=Deed.PREPARE, reason=_EARLY, kinds=(NoticeKind.REBALANCE,)),
    Rule(deed=Deed.PREPARE, reason=_MOVED, kinds=(NoticeKind.FREEZE, NoticeKind.MIGRATE)),
    Rule(
        deed=Deed.ASIDE,
        reason=_ENDS,
        kinds=(NoticeKind.STOP, NoticeKind.TERMINATE, NoticeKind.REBOOT),
    ),
)


def actions(
    notice: Notice, rules: Sequence[Rule], provider: ProviderName | None = None
) -> tuple[Rule, ...]:
    """What is done on `notice`, in order: of the rules, or of the defaults where there are none at
    all. A simulated notice is taken for one of `provider`, where that is known."""
    source = notice.source
    if source is ProviderName.SIMULATED and provider is not None:
        source = provider
    return tuple(
        rule
        for rule in rules or DEFAULTS
        if notice.kind in rule.kinds and (not rule.providers or source in rule.providers)
    )


def needed_seconds(rules: Sequence[Rule]) -> float:
    """What is kept for all of them, but for hibernations themselves."""
    return sum(rule.needs_seconds for rule in rules)


def until_asleep(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Those before the first hibernation. What comes after that is done after the resume, and only
    where it is not begun in the time that is left."""
    return tuple(itertools.takewhile(lambda rule: rule.deed is not Deed.HIBERNATE, rules))


def hibernates(following: Sequence[Rule]) -> bool:
    """Whether a hibernation of ours follows, for which time has to be kept too."""
    return any(rule.deed is Deed.HIBERNATE for rule in following)


def share(rules: Sequence[Rule], left_seconds: float | None) -> Share:
    """How long the first of `rules` may take when that much time is left for all of them (None: no
    time is told; 0 or less: it has passed, or it has begun).

    With no time left, what takes memory is not begun; what is quick is, with its own time-out: the
    machine is still there. Where time is short for the quick ones, each has its part of it.
    """
    first, following = rules[0], rules[1:]
    if left_seconds is None:
        return Share(first.timeout_seconds or first.needs_seconds or None)
    if first.deed in (Deed.PREPARE, Deed.HIBERNATE):
        return _for_memory(first, following, left_seconds)
    if left_seconds <= 0:
        return Share(first.needs_seconds)
    together = needed_seconds((first, *following))
    return Share(min(first.needs_seconds, left_seconds * first.needs_seconds / together))


def _for_memory(first: Rule, following: Sequence[Rule], left_seconds: float) -> Share:
    if left_seconds <= 0:
        return Share(0.0, "no time is left for it")
    if first.deed is Deed.HIBERNATE:
        return Share(left_seconds)
    keep = needed_seconds(following) if first.keep_seconds is None else first.keep_seconds
    seconds = left_seconds - keep
    if seconds < LEAST_SECONDS:
        return Share(
            0.0, f"of the {left_seconds:.0f} s that are left, {keep:.0f} s are for what follows"
        )
    if first.timeout_seconds is not None:
        seconds = min(seconds, first.timeout_seconds)
    return Share(seconds)


def shares(rules: Sequence[Rule], left_seconds: float | None) -> tuple[Share, ...]:
    """The shares of all of them, should each take all of its own and no hibernation be begun."""
    found = []
    for number, rule in enumerate(rules):
        found.append(share(rules[number:], left_seconds))
        if left_seconds is not None and left_seconds > 0 and rule.deed is not Deed.HIBERNATE:
            left_seconds -= found[-1].seconds or 0.0
    return tuple(found)
