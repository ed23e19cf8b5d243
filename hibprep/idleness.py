# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what is known of the outside, and whether anybody uses the machine.

`see` folds signals into a `View`; `judge` says since when the machine is idle, or by whom it is
used, in words. Nobody is believed alone: a session that sets no idle hint is idle when the CPUs are
and stay so, a machine without sessions (logind: "idle since 1970") is idle no earlier than since
its start, its last resume and the last time that its CPUs were busy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType

from hibprep.events import (
    Cpu,
    Inhibitors,
    Moment,
    PowerSupply,
    Predicted,
    Pressure,
    Session,
    Sessions,
    Signal,
    SourceChanged,
    SourceName,
    SourceState,
)

# Greeters never idle, lock screens and background sessions have nobody in front of them: only these
# are people (logind's own idle hint counts the same, org.freedesktop.login1(5)).
USER_CLASSES = frozenset({"user", "user-early", "user-light", "user-early-light"})
_GRAPHICAL = frozenset({"x11", "wayland", "mir"})
_PRESSURE_LASTS_SECONDS = 60.0
_MINUTE = 60
_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class IdlePolicy:
    """What counts as idle; seconds, and percents of CPU time."""

    cpu_each: bool = False  # by the busiest CPU, as against all of them together
    cpu_idle_percent: float = 95.0
    cpu_idle_percent_while_reclaiming: float = 50.0  # writing to swap costs kernel threads
    blind_seconds: float = 600.0  # CPUs are quiet for so long where nobody tells of input


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that was said, as far as it is needed to judge."""

    begun_at_seconds: float
    resumed_at_seconds: float
    sources: Mapping[SourceName, SourceState] = field(
        default_factory=lambda: MappingProxyType(dict[SourceName, SourceState]())
    )
    sessions: tuple[Session, ...] | None = None  # None: not known
    # when a session was first seen locked, or in the background of its seat
    left_at_seconds: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(dict[str, float]())
    )
    inhibitors: Inhibitors = field(default_factory=Inhibitors)
    power: PowerSupply = field(default_factory=PowerSupply)
    cpu: Cpu | None = None
    cpu_quiet_at_seconds: float | None = None  # None: busy, or not known
    pressure: Mapping[str, Pressure] = field(  # the last of each resource
        default_factory=lambda: MappingProxyType(dict[str, Pressure]())
    )
    pressure_at_seconds: Mapping[str, float] = field(
        default_factory=lambda: MappingProxyType(dict[str, float]())
    )
    predicted: Predicted | None = None

    def works(self, source: SourceName) -> bool:
        """Whether that source tells us anything."""
        state = self.sources.get(source)
        return state is not None and state.works


@dataclass(frozen=True, slots=True)
class Idleness:
    """Since when the machine is idle (CLOCK_MONOTONIC; None: it is used), and why that is so. A
    time to come means that nothing speaks against it, and not yet enough for it."""

    at_seconds: float | None
    words: str


def begin(now: Moment) -> View:
    """The view of a daemon that has heard nothing yet."""
    return View(begun_at_seconds=now.monotonic_seconds, resumed_at_seconds=now.monotonic_seconds)


def see(
    view: View, signal: Signal, now: Moment, policy: IdlePolicy, *, reclaiming: bool = False
) -> View:
    """`view` with `signal` in it. What a source said is forgotten when it fails.

    `reclaiming`: memory was being taken in the time that the signal tells of; the pressure that
    this makes is not somebody's work.
    """
    at = now.monotonic_seconds
    if isinstance(signal, SourceChanged):
        state = SourceState(signal.works, signal.reason)
        view = replace(view, sources=MappingProxyType({**view.sources, signal.source: state}))
        return view if signal.works else _forget(view, signal.source)
    if isinstance(signal, Sessions):
        left = {
            each.id: view.left_at_seconds.get(each.id, at)
            for each in signal.sessions
            if each.locked or not each.active
        }
        return replace(view, sessions=signal.sessions, left_at_seconds=MappingProxyType(left))
    if isinstance(signal, Inhibitors):
        return replace(view, inhibitors=signal)
    if isinstance(signal, PowerSupply):
        return replace(view, power=signal)
    if isinstance(signal, Cpu):
        quiet = _is_quiet(signal, policy, reclaiming=reclaiming)
        since = view.cpu_quiet_at_seconds
        begun = at - signal.seconds if since is None else since
        return replace(view, cpu=signal, cpu_quiet_at_seconds=begun if quiet else None)
    if isinstance(signal, Pressure):
        if reclaiming:
            return view
        return replace(
            view,
            pressure=MappingProxyType({**view.pressure, signal.resource: signal}),
            pressure_at_seconds=MappingProxyType({**view.pressure_at_seconds, signal.resource: at}),
        )
    if isinstance(signal, Predicted):
        return replace(view, predicted=signal)
    return view


def _forget(view: View, source: SourceName) -> View:
    if source is SourceName.LOGIND:
        return replace(
            view,
            sessions=None,
            left_at_seconds=MappingProxyType(dict[str, float]()),
            inhibitors=Inhibitors(),
        )
    if source is SourceName.CPU:
        return replace(view, cpu=None, cpu_quiet_at_seconds=None)
    if source is SourceName.POWER:
        return replace(view, power=PowerSupply())
    return view


def _is_quiet(cpu: Cpu, policy: IdlePolicy, *, reclaiming: bool) -> bool:
    if reclaiming:
        return 100 * cpu.idle_share >= policy.cpu_idle_percent_while_reclaiming
    share = cpu.least_idle_share if policy.cpu_each else cpu.idle_share
    return 100 * share >= policy.cpu_idle_percent


def judge(view: View, now: Moment, policy: IdlePolicy) -> Idleness:
    """Whether the machine is idle, since when, and why."""
    for what, who in (("being idle", view.inhibitors.idle), ("sleeping", view.inhibitors.sleep)):
        if who:
            return Idleness(None, f"{who[0]} keeps the machine from {what}")
    pressed = _pressed(view, now)
    if pressed is not None:
        return Idleness(None, f"programs in {pressed.scope} wait for {pressed.resource}")
    if view.cpu is not None and view.cpu_quiet_at_seconds is None:
        return Idleness(None, f"the CPUs are busy ({_cpu_words(view.cpu, policy)})")

    since = max(view.begun_at_seconds, view.resumed_at_seconds)
    words: list[str] = []
    blind: list[str] = []
    for session in view.sessions or ():
        if session.session_class not in USER_CLASSES:
            continue
        at, text = _session(session, view, now)
        if at is None:
            return Idleness(None, text)
        words.append(text)
        if at < 0:
            blind.append(text)
        else:
            since = max(since, at)
    if not words:
        nobody = "logind tells nothing" if view.sessions is None else "nobody is logged in"
        words.append(nobody)
        blind.append(nobody)
    quiet = view.cpu_quiet_at_seconds
    if blind and quiet is None:
        return Idleness(None, f"{blind[0]}, and nothing is known of the CPUs")
    if quiet is not None and view.cpu is not None:
        since = max(since, quiet + (policy.blind_seconds if blind else 0.0))
        words.append(_cpu_words(view.cpu, policy))
    return Idleness(since, "; ".join(words))


_UNKNOWN = -1.0


def _session(session: Session, view: View, now: Moment) -> tuple[float | None, str]:
    """Since when nobody sits at it (None: somebody does; _UNKNOWN: it does not tell)."""
    place = _place(session)
    left = view.left_at_seconds.get(session.id)
    if left is not None:
        how = "locked" if session.locked else "in the background"
        return left, f"{place} {how} since {_clock_time(left, now)}"
    if session.idle:
        at = session.idle_at_seconds
        at = view.begun_at_seconds if at is None else at
        return at, f"{place} idle, no input since {_clock_time(at, now)}"
    if session.input_at_seconds is not None:
        at = session.input_at_seconds
        return at, f"{place} quiet {spell(now.monotonic_seconds - at)}"
    if session.session_type in _GRAPHICAL and session.hints:
        return None, f"{place} is used by {session.user}"
    return _UNKNOWN, f"{place} gives no idle hint"


def _place(session: Session) -> str:
    if session.remote:
        return f"ssh {session.tty}".strip()
    return session.seat or session.tty or f"session {session.id}"


def _pressed(view: View, now: Moment) -> Pressure | None:
    for resource, at in view.pressure_at_seconds.items():
        recent = now.monotonic_seconds - at < _PRESSURE_LASTS_SECONDS
        if recent and at > view.resumed_at_seconds and view.pressure[resource].share > 0:
            return view.pressure[resource]
    return None


def _cpu_words(cpu: Cpu, policy: IdlePolicy) -> str:
    if policy.cpu_each:
        return f"busiest cpu {100 * cpu.least_idle_share:.1f} % idle"
    return f"cpu {100 * cpu.idle_share:.1f} % idle"


def _clock_time(at_seconds: float, now: Moment) -> str:
    # a person's clock counts sleep, the monotonic one does not: what was before a sleep is told a
    # little late, which is nearer to the truth than the other way round
    wall = now.wall - timedelta(seconds=now.monotonic_seconds - at_seconds)
    return wall.strftime("%H:%M")


def spell(seconds: float) -> str:
    """A length of time as a person says it: two units at most."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        minutes, rest = divmod(whole, _MINUTE)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"  # noqa: PLR2004
    hours, rest = divmod(whole, _HOUR)
    return f"{hours} h {rest // _MINUTE} min" if rest >= _MINUTE else f"{hours} h"
