# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration: one typed declaration per setting, checked all at once.

Everything else about a setting (the JSON schema, the cure in an error, the table in
`docs/configuration.md`) is derived from its declaration in `hibprep.settings` and
`hibprep.settings_daemon`. The values are frozen: what changes while hibprep runs is kept elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from hibprep.cures import Place, explain
from hibprep.errors import ConfigError
from hibprep.idleness import IdlePolicy
from hibprep.model import BackendName, Limits, Stage, Target, TargetKind
from hibprep.noticerules import Rule
from hibprep.pace import PacePolicy
from hibprep.policy import Kind, Policy
from hibprep.settings import (
    HistorySettings,
    RateSettings,
    ReclaimSettings,
    Section,
    TargetSettings,
)
from hibprep.settings_daemon import (
    CgroupSettings,
    ContinuousSettings,
    DaemonSettings,
    IdleSettings,
    PowerSettings,
    SleepSettings,
)
from hibprep.settings_guests import GuestsSettings
from hibprep.settings_incoming import IncomingSettings
from hibprep.settings_notices import NoticesSettings, OnSettings

CONFIG_FILE = "etc/hibprep/hibprep.toml"
DROP_IN_DIRECTORY = "etc/hibprep/hibprep.toml.d"


class ConfigErrors(ConfigError):
    """Everything that is wrong, one line each, so that one run is enough to mend it all."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("; ".join(self.lines))


class Config(Section):
    """The whole configuration; an empty file is a valid one."""

    target_section: Annotated[TargetSettings, Field(alias="target")] = TargetSettings()
    reclaim: ReclaimSettings = ReclaimSettings()
    rates_section: Annotated[RateSettings, Field(alias="rates")] = RateSettings()
    history: HistorySettings = HistorySettings()
    daemon: DaemonSettings = DaemonSettings()
    idle: IdleSettings = IdleSettings()
    power: PowerSettings = PowerSettings()
    continuous: ContinuousSettings = ContinuousSettings()
    sleep: SleepSettings = SleepSettings()
    cgroups: CgroupSettings = CgroupSettings()
    guests: GuestsSettings = GuestsSettings()
    incoming: IncomingSettings = IncomingSettings()
    notices: NoticesSettings = NoticesSettings()
    on: Annotated[
        tuple[OnSettings, ...],
        Field(description="what is done on a notice; none at all: the defaults"),
    ] = ()

    def target(self) -> Target:
        """What to aim at when the command line does not say."""
        section = self.target_section
        return Target(section.kind, section.size or 0, section.seconds or 0.0)

    def limits(self) -> Limits:
        """What the plan and the executor may do."""
        section = self.reclaim
        return Limits(
            stages=tuple(stage for stage in Stage if stage in section.stages),
            cold_age_seconds=section.cold_age_seconds,
            swap_reserve_ratio=section.swap_reserve_ratio,
            systemd_margin=section.systemd_margin,
            zswap=section.zswap,
            backend=section.backend if isinstance(section.backend, BackendName) else None,
        )

    def policy(self) -> Policy:
        """What the daemon decides by."""
        idle, power, continuous = self.idle, self.power, self.continuous
        target = self.target()
        if self.daemon.policy is Kind.CONTINUOUS:
            target = Target(TargetKind.WITHIN, seconds=continuous.within_seconds)
        delays = {
            Stage.SYNC: idle.sync_after_seconds,
            Stage.CACHE: idle.cache_after_seconds,
            Stage.SLAB: idle.cache_after_seconds,
            Stage.COLD_ANON: idle.cold_anon_after_seconds,
            Stage.ANON: idle.anon_after_seconds,
        }
        return Policy(
            kind=self.daemon.policy,
            target=target,
            idle=IdlePolicy(
                cpu_each=idle.cpu_each,
                cpu_idle_percent=idle.cpu_idle_percent,
                cpu_idle_percent_while_reclaiming=min(50.0, idle.cpu_idle_percent),
                blind_seconds=idle.blind_seconds,
            ),
            after_seconds=idle.after_seconds,
            delays_seconds={stage: delays[stage] for stage in self.limits().stages},
            check_again_seconds=idle.check_again_seconds,
            settle_seconds=self.daemon.settle_seconds,
            swap_in=self.sleep.swap_in,
            on_battery=power.on_battery,
            low_battery_percent=power.low_battery_percent,
            on_low_battery=power.on_low_battery,
            on_low_power=power.on_low_power,
            forward_factor=power.forward_factor,
            write_budget_bytes=self.daemon.daily_write or 0,
            continuous_seconds=continuous.within_seconds,
            period_seconds=continuous.period_seconds,
            older_than_seconds=continuous.older_than_seconds or 0.0,
            pace=PacePolicy(
                law=continuous.law,
                bytes_per_second=continuous.bytes_per_second,
                memory_pressure_share=continuous.memory_pressure_percent / 100,
                io_pressure_share=continuous.io_pressure_percent / 100,
                refault_share=continuous.refault_percent / 100,
                pause_seconds=continuous.pause_seconds,
            ),
        )

    def notice_rules(self) -> tuple[Rule, ...]:
        """What is done on notices; none: the defaults."""
        return tuple(rule.rule(number) for number, rule in enumerate(self.on, 1))

    def rates(self) -> dict[str, float]:
        """The fields of `model.Rates` that are configured, and no others."""
        return self.rates_section.model_dump(exclude_none=True)


def schema() -> dict[str, object]:
    """The JSON schema of the configuration file."""
    return Config.model_json_schema()


def config_files(root_prefix: str) -> tuple[Path, ...]:
    """The files that would be read, in their order; later ones win key by key."""
    root = Path(root_prefix or "/")
    main = root / CONFIG_FILE
    drop_ins = root / DROP_IN_DIRECTORY
    try:
        extra = sorted(path for path in drop_ins.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        extra = []
    except OSError as error:
        raise ConfigError(
            f"{drop_ins}: {error.strerror}", "make it readable or run hibprep as root"
        ) from None
    return (*([main] if main.exists() else []), *extra)


def load(root_prefix: str = "/", config_file: str | None = None) -> Config:
    """Read and check the configuration; `config_file` replaces the files under `root_prefix`."""
    files = config_files(root_prefix) if config_file is None else (Path(config_file),)
    if not files:
        return Config()
    merged: dict[str, object] = {}
    origins: dict[Place, Path] = {}
    problems: list[str] = []
    for path in files:
        try:
            _merge(merged, tomllib.loads(path.read_bytes().decode()), origins, path, ())
        except OSError as error:
            problems.append(f"{path}: {error.strerror}: give a file that exists and can be read")
        except UnicodeDecodeError as error:
            problems.append(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8")
        except (ValueError, RecursionError) as error:  # tomllib's, and int()'s of too many digits
            problems.append(f"{path}: not TOML: {' '.join(str(error).split())}")
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigErrors([*problems, *explain(schema(), error, origins, files[0])]) from None
    if problems:
        raise ConfigErrors(problems)
    return config


def _merge(
    into: dict[str, object],
    new: Mapping[str, object],
    origins: dict[Place, Path],
    path: Path,
    place: tuple[str, ...],
) -> None:
    for key, value in new.items():
        here = (*place, key)
        origins[here] = path
        old = into.get(key)
        if isinstance(value, dict):
            # a table over a table adds to it; over anything else it takes its place
            table = old if isinstance(old, dict) else {}
            into[key] = table
            _merge(table, value, origins, path, here)
        else:
            into[key] = value
