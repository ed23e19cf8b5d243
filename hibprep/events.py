# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the outside world says, as typed values: signals from the sources to `hibprep.decide`.

Pure: frozen values, no I/O, no clock. Times named `_at_seconds` are on CLOCK_MONOTONIC (they do not
count sleep), so that they can be compared with `Moment.monotonic_seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hibprep.model import Ending, Stage, Target
from hibprep.notices import Notice


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, on the clocks that matter: CLOCK_MONOTONIC, CLOCK_BOOTTIME, and the time of day."""

    monotonic_seconds: float
    boottime_seconds: float
    wall: datetime


class SourceName(StrEnum):
    """The sources of signals."""

    LOGIND = "logind"
    POWER = "power"
    PRESSURE = "pressure"
    CPU = "cpu"
    CONTROL = "control"
    CHANNEL = "channel"
    GUESTS = "guests"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """A source works, or does not and why; said once on every change."""

    source: SourceName
    works: bool
    reason: str


# --- logind ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session as logind describes it (org.freedesktop.login1(5))."""

    id: str
    user: str
    session_class: str  # user, user-early, greeter, lock-screen, background, manager …
    session_type: str  # tty, x11, wayland, mir, web, unspecified
    seat: str = ""  # "" when it has none
    tty: str = ""  # "tty2", "pts/3"; "" when it has none
    active: bool = True  # in the foreground of its seat; remote sessions always are
    remote: bool = False
    locked: bool = False
    idle: bool = False  # IdleHint
    idle_at_seconds: float | None = None  # IdleSinceHintMonotonic; None when logind says 0
    hints: bool = False  # whether this session was ever seen to set an idle hint
    input_at_seconds: float | None = None  # last input on its tty; None: no tty, or not known


@dataclass(frozen=True, slots=True)
class Sessions:
    """All sessions there are; takes the place of what was said before."""

    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Inhibitors:
    """Who blocks idleness and sleep, in words ("firefox (pid 812): video is playing"). Locks in
    mode delay block nothing and are not here."""

    idle: tuple[str, ...] = ()
    sleep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sleep:
    """PrepareForSleep: a sleep comes, or has ended (or failed; logind does not say)."""

    coming: bool


@dataclass(frozen=True, slots=True)
class Shutdown:
    """PrepareForShutdown."""

    coming: bool


# --- the machine ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSupply:
    """What feeds the machine; None where it cannot be told or there is no such thing."""

    mains: bool | None = None
    battery_percent: float | None = None
    lid_closed: bool | None = None
    low_power: bool = False  # the platform's power profile is low-power


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """A swap area or block device came or went: what was planned with it holds no more."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Tasks of `scope` wait for `resource` more than was allowed for ("some", Documentation/
    accounting/psi.rst); `share` of the window, 0 to 1, where it is known."""

    resource: str  # memory or io
    scope: str  # "user.slice", or "machine"
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """How idle the CPUs were in the last `seconds`, hibprep's own work taken out; shares 0 to 1."""

    idle_share: float  # of all CPUs together
    least_idle_share: float  # of the busiest one
    seconds: float


# --- guests ---------------------------------------------------------------------------------------


class GuestOperation(StrEnum):
    """What libvirt's hook of the QEMU driver was called for (https://libvirt.org/hooks.html). The
    others of its operations are not told, as they change nothing for us."""

    MIGRATE = "migrate"  # one is to come in, on the destination; it may never arrive
    RESTORE = "restore"  # one is to come back from a file
    STARTED = "started"  # it is there: booted, come in or come back
    RECONNECT = "reconnect"  # it was there, and libvirt has been started anew
    RELEASE = "release"  # it is gone: shut down, saved, migrated away


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEvent:
    """A hook of libvirt has told of a guest; libvirt may be asked about it only later, since it
    waits for the hook to end."""

    operation: GuestOperation
    name: str
    uuid: str = ""  # "": not known
    reason: str = ""  # of RELEASE, from libvirt 10.5 on: shutdown, migrated, saved …
    prepared: bool = False  # the undo record was seen in its metadata, which may be long
    source: str = ""  # of MIGRATE: the host that its metadata names


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestJob:
    """A migration away from here or a save of a guest has ended well, whoever had begun it; what it
    took, as libvirt tells it (virDomainGetJobStats). Of one that came libvirt tells nothing."""

    name: str
    uuid: str
    operation: str  # migration out, save …
    seconds: float
    downtime_seconds: float | None = None
    total_bytes: int = 0  # of memory
    sent_bytes: int = 0  # of it
    normal_pages: int = 0
    zero_pages: int = 0
    disk_bytes: int = 0


# --- notices --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoticeGiven:
    """A notice that was not known before, or whose time or state has changed."""

    notice: Notice
    deadline_at_seconds: float | None  # of this machine's clock; None: no time is told


@dataclass(frozen=True, slots=True)
class NoticeWithdrawn:
    """It is not announced any more."""

    notice: Notice
    over: bool = False  # its time had come; else it is not going to happen


# --- requests, and what became of a run -----------------------------------------------------------


class Wish(StrEnum):
    """What can be asked for, over the control socket and the bus or for a notice."""

    PREPARE = "prepare"
    STOP = "stop"
    SWAP_IN = "swapin"
    TAKE_BACK = "take back"  # what the same one has asked for is not wanted any more; of notices


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Somebody who may asks for something."""

    wish: Wish
    who: str  # "hibprep prepare (pid 4711)", "org.hibprep.Manager1 :1.42"
    target: Target | None = None  # None: the configured one
    timeout_seconds: float | None = None
    stages: tuple[Stage, ...] = tuple(Stage)
    cold_wait_seconds: float | None = None  # see `Limits`


@dataclass(frozen=True, slots=True)
class RunBegan:
    """The reclaim that was decided on has begun."""

    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """It has ended, and nothing writes to the kernel any more."""

    ending: Ending
    reason: str
    goal_reached: bool = False
    freed_bytes: int = 0
    refaulted_bytes: int = 0  # of what was freed: read again or swapped in again meanwhile
    swapped_out_bytes: int = 0
    cpu_seconds: float = 0.0  # processor time that it took, of all CPUs together


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a hibernation would take now."""

    hibernate_seconds: float
    resume_seconds: float
    saveable_bytes: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Signal = (
    SourceChanged | Sessions | Inhibitors | Sleep | Shutdown | PowerSupply | DevicesChanged
    | Pressure | Cpu | GuestEvent | GuestJob | NoticeGiven | NoticeWithdrawn | Request | RunBegan
    | RunEnded | Predicted | Tick
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceState:
    """For `status`: whether a source works, and since when."""

    works: bool = False
    reason: str = "not started yet"
    details: dict[str, str] = field(default_factory=dict)
