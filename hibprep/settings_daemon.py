# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declarations of the settings that only the daemon reads."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from hibprep.laws import Law
from hibprep.policy import Battery
from hibprep.policy import Kind as PolicyKind
from hibprep.settings import BytesPerSecond, Number, Section, Size

_LONGEST_SECONDS = 7 * 86400
Delay = Annotated[Number, Field(ge=0, le=_LONGEST_SECONDS)]
Percent = Annotated[Number, Field(ge=0, le=100)]
CgroupPath = Annotated[
    str,
    StringConstraints(pattern=r"^/[^\x00]*$", max_length=4096),
    Field(description="a cgroup's path, such as /system.slice"),
]
MetricsFile = Annotated[
    str,
    StringConstraints(pattern=r"^/.+\.prom$", max_length=4096),
    Field(description="an absolute path that ends in .prom"),
]


class DaemonSettings(Section):
    """What `hibprep run` does."""

    policy: Annotated[
        PolicyKind,
        Field(
            description="idle: prepare while nobody uses the machine; continuous: keep the "
            "predicted hibernation within continuous.within_seconds at all times; on-request: "
            "only when a hook or a command asks"
        ),
    ] = PolicyKind.IDLE
    settle_seconds: Annotated[
        Delay, Field(description="after a resume nothing is taken for so long")
    ] = 60.0
    daily_write: Annotated[
        Size | None,
        Field(description="what the daemon may swap out in a day by itself; not set: no limit"),
    ] = None
    metrics_file: Annotated[
        MetricsFile | None,
        Field(
            description="figures for Prometheus are written here, for the node exporter's "
            "textfile collector"
        ),
    ] = None
    metrics_port: Annotated[
        int | None,
        Field(
            strict=True,
            ge=1024,
            le=65535,
            description="figures for Prometheus are served here, to this machine only",
        ),
    ] = None


class IdleSettings(Section):
    """What counts as idle, and what is done how soon; policy `idle`."""

    after_seconds: Annotated[
        Number,
        Field(ge=1, le=_LONGEST_SECONDS, description="idle for less than this is not idle"),
    ] = 60.0
    sync_after_seconds: Annotated[Delay, Field(description="idle for so long: stage sync")] = 60.0
    cache_after_seconds: Annotated[
        Delay, Field(description="idle for so long: stages cache and slab")
    ] = 120.0
    cold_anon_after_seconds: Annotated[
        Delay, Field(description="idle for so long: stage cold-anon")
    ] = 300.0
    anon_after_seconds: Annotated[Delay, Field(description="idle for so long: stage anon")] = 900.0
    check_again_seconds: Annotated[
        Number,
        Field(
            ge=10,
            le=_LONGEST_SECONDS,
            description="when ready, the first look at whether it still holds; doubled each time, "
            "up to an hour",
        ),
    ] = 300.0
    cpu_idle_percent: Annotated[
        Percent, Field(description="CPUs that are idle for less of the time are at work")
    ] = 95.0
    cpu_each: Annotated[
        bool,
        Field(
            strict=True,
            description="true: the busiest CPU must be that idle; false: all of them together",
        ),
    ] = False
    blind_seconds: Annotated[
        Delay,
        Field(
            description="the CPUs must have been quiet for so much longer where no session tells "
            "of input (no session, a desktop that sets no idle hint, ssh without a terminal)"
        ),
    ] = 600.0


class PowerSettings(Section):
    """What changes on battery."""

    on_battery: Annotated[
        Battery,
        Field(
            description="as-usual; cache-only: nothing is written to swap; hold: nothing at all; "
            "forward: earlier"
        ),
    ] = Battery.AS_USUAL
    low_battery_percent: Annotated[
        Percent, Field(description="on battery at or below this level, on_low_battery holds")
    ] = 20.0
    on_low_battery: Annotated[Battery, Field(description="as on_battery")] = Battery.FORWARD
    on_low_power: Annotated[
        Battery, Field(description="as on_battery; where the platform's profile is low-power")
    ] = Battery.AS_USUAL
    forward_factor: Annotated[
        Number, Field(gt=0, le=1, description="forward: the delays are multiplied with this")
    ] = 0.25


class ContinuousSettings(Section):
    """Policy `continuous`."""

    within_seconds: Annotated[
        Number, Field(gt=0, le=86400, description="the hibernation is to take no longer")
    ] = 10.0
    older_than_seconds: Annotated[
        Number | None,
        Field(
            ge=10,
            le=_LONGEST_SECONDS,
            description="memory that is idle for longer than this goes, also where the hibernation "
            "is within its time; not set: it stays",
        ),
    ] = None
    period_seconds: Annotated[
        Number, Field(ge=1, le=3600, description="a little is taken so often")
    ] = 10.0
    law: Annotated[
        Law,
        Field(
            description="how much is taken at once: share: of bytes_per_second, as it proves to do "
            "no harm; senpai, tmo: of what is in use, as those two would by the pressure there is"
        ),
    ] = Law.SHARE
    bytes_per_second: Annotated[
        BytesPerSecond, Field(description="no more than this, on average")
    ] = 20e6
    memory_pressure_percent: Annotated[
        Number,
        Field(gt=0, le=100, description="nothing is taken while others wait longer for memory"),
    ] = 1.0
    io_pressure_percent: Annotated[
        Number,
        Field(gt=0, le=100, description="nothing is taken while others wait longer for disks"),
    ] = 1.0
    refault_percent: Annotated[
        Number,
        Field(
            gt=0,
            le=100,
            description="more of what was taken coming back: half the rate, after a pause",
        ),
    ] = 5.0
    pause_seconds: Annotated[Delay, Field(description="that pause")] = 60.0


class SleepSettings(Section):
    """What the sleep hook does; systemd gives all hooks together 90 s."""

    budget_seconds: Annotated[
        Number,
        Field(
            ge=0,
            le=45,
            description="before a hibernation, a last pass takes no longer than this; 0: none",
        ),
    ] = 5.0
    suspend_budget_seconds: Annotated[
        Number,
        Field(
            ge=0,
            le=45,
            description="the same before the suspend of suspend-then-hibernate, for what is cold",
        ),
    ] = 5.0
    swap_in: Annotated[
        bool,
        Field(
            strict=True,
            description="after the resume what was in use is read back from swap, as far as memory "
            "is free",
        ),
    ] = False
    unit_budget_seconds: Annotated[
        Number,
        Field(
            ge=0,
            le=600,
            description="the pass of hibprep-presleep.service, where that is enabled",
        ),
    ] = 60.0


class CgroupSettings(Section):
    """Rules for cgroups (paths as in /proc/PID/cgroup, cgroup v2), with all that is below them."""

    protect: Annotated[
        tuple[CgroupPath, ...], Field(description="nothing is taken from these")
    ] = ()
    cache_only: Annotated[
        tuple[CgroupPath, ...], Field(description="nothing of these goes to swap")
    ] = ()
    cold_only: Annotated[
        tuple[CgroupPath, ...],
        Field(description="of these only what is cold goes to swap, never the rest"),
    ] = ()
    first: Annotated[
        tuple[CgroupPath, ...], Field(description="these are reclaimed before all others")
    ] = ()

    @model_validator(mode="after")
    def _one_rule_each(self) -> Self:
        seen: dict[str, str] = {}
        for name in ("protect", "cache_only", "cold_only", "first"):
            for path in getattr(self, name):
                other = seen.setdefault(path, name)
                if other != name and "first" not in (other, name):
                    raise ValueError(
                        f"{path} is in `{other}` and in `{name}`; give it one of the two"
                    )
                if other != name and "protect" in (other, name):
                    raise ValueError(
                        f"{path} is in `{other}` and in `{name}`; what is protected cannot be first"
                    )
        return self
