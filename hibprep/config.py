# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration: one typed declaration per setting, checked all at once.

Everything else about a setting (the JSON schema, the cure in an error, the table in
`docs/configuration.md`) is derived from its declaration in `hibprep.settings` and
`hibprep.settings_daemon`. The values are frozen: what changes while hibprep runs is kept elsewhere.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from hibprep.errors import ConfigError
from hibprep.idleness import IdlePolicy
from hibprep.model import BackendName, Limits, Stage, Target, TargetKind
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
from hibprep.sizes import SIZE_WORDS, shorten

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
    origins: dict[tuple[str, ...], Path] = {}
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
        raise ConfigErrors([*problems, *_explain(error, origins, files[0])]) from None
    if problems:
        raise ConfigErrors(problems)
    return config


def _merge(
    into: dict[str, object],
    new: Mapping[str, object],
    origins: dict[tuple[str, ...], Path],
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


def _explain(
    error: ValidationError, origins: Mapping[tuple[str, ...], Path], fallback: Path
) -> Iterator[str]:
    document = schema()
    seen: set[tuple[str, ...]] = set()
    for item in error.errors(include_url=False):
        # what comes after section and key is pydantic's: the member of a union, an index
        place = tuple(str(part) for part in item["loc"][:2])
        if place in seen:
            continue  # one line per key, however many members of a union it failed to be
        seen.add(place)
        path = next((origins[place[:n]] for n in (2, 1) if place[:n] in origins), fallback)
        key = ".".join(place)
        if item["type"] == "extra_forbidden":
            known = _keys(document, place[:-1])
            near = difflib.get_close_matches(place[-1], known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            yield f"{path}: {key}: unknown {'section' if len(place) == 1 else 'key'}: {cure}"
        elif item["type"] == "value_error":
            yield f"{path}: {key}: {item['ctx']['error']}"
        else:
            value = item["input"]
            yield f"{path}: {key} = {_shown(value)}: must be {_allowed(document, place)}"


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return shorten(str(value).lower() if isinstance(value, bool) else repr(value))


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _resolve(document: Mapping[str, object], node: object) -> dict[str, object]:
    found = _object(node)
    reference = found.get("$ref")
    if isinstance(reference, str):
        definitions = _object(document.get("$defs"))
        return {**_object(definitions.get(reference.rsplit("/", 1)[-1])), **found}
    return found


def _node(document: Mapping[str, object], place: tuple[str, ...]) -> dict[str, object]:
    node = dict(document)
    for part in place:
        node = _resolve(document, _object(node.get("properties")).get(part))
    return node


def _keys(document: Mapping[str, object], place: tuple[str, ...]) -> list[str]:
    return list(_object(_node(document, place).get("properties")))


def _allowed(document: Mapping[str, object], place: tuple[str, ...]) -> str:
    """What a value may be, in words, from the schema: nothing is said twice in this file."""
    if len(place) == 1:
        return "a section with keys: " + ", ".join(_keys(document, place))
    return _words(document, _node(document, place))


def _words(document: Mapping[str, object], node: dict[str, object]) -> str:
    node = _resolve(document, node)
    if "enum" in node or "const" in node:
        members = node.get("enum", [node.get("const")])
        return "one of " + ", ".join(map(str, members if isinstance(members, list) else []))
    options = node.get("anyOf")
    if isinstance(options, list):
        if node.get("description") == SIZE_WORDS:
            return SIZE_WORDS
        words = [
            _words(document, option) for option in options if _object(option).get("type") != "null"
        ]
        return ", ".join(word.removeprefix("one of ") for word in words)
    if node.get("type") == "array":
        items = _words(document, _object(node.get("items")))
        if not node.get("minItems"):
            return f"a list, each of it {items}"
        return "a list with at least one of " + items.removeprefix("one of ")
    if node.get("type") == "boolean":
        return "true or false"
    if node.get("type") == "string":
        return str(node.get("description", "a text"))
    kind = "a whole number" if node.get("type") == "integer" else "a number"
    if "exclusiveMinimum" in node:
        kind += f" above {node['exclusiveMinimum']:g}"
    elif "minimum" in node:
        kind += f" from {node['minimum']:g}"
    return kind + (f" up to {node['maximum']:g}" if "maximum" in node else "")
