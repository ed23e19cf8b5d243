# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration: one typed declaration per setting, checked all at once.

Everything else about a setting (the JSON schema, the cure in an error, the table in
`docs/configuration.md`) is derived from its declaration here. The values are frozen: what changes
while hibprep runs is kept elsewhere.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from hibprep.errors import ConfigError
from hibprep.model import BackendName, Limits, Stage, Target, TargetKind
from hibprep.sizes import LARGEST_BYTES, SIZE_WORDS, parse_size, shorten

CONFIG_FILE = "etc/hibprep/hibprep.toml"
DROP_IN_DIRECTORY = "etc/hibprep/hibprep.toml.d"


class ConfigErrors(ConfigError):
    """Everything that is wrong, one line each, so that one run is enough to mend it all."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("; ".join(self.lines))


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0),
    WithJsonSchema(
        {
            "description": SIZE_WORDS,
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0, "maximum": LARGEST_BYTES},
                {"type": "string", "pattern": "^ *[0-9]+(\\.[0-9]+)? *([kKMGTPE]i?B?|B)? *$"},
            ],
        }
    ),
]
# strict: "10" in quotes is a mistake worth telling, and true is not 1
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
BytesPerSecond = Annotated[Number, Field(ge=1e3, le=1e13)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetSettings(_Section):
    """What is aimed at when neither `--target` nor `--within` is given."""

    kind: Annotated[
        TargetKind,
        Field(
            description="image_size: what the kernel would shrink to; min: as small as it gets; "
            "size: see `size`; within: see `seconds`"
        ),
    ] = TargetKind.IMAGE_SIZE
    size: Annotated[
        Size | None, Field(description='the wanted image, uncompressed; only with kind = "size"')
    ] = None
    seconds: Annotated[
        Positive | None,
        Field(description='the hibernation may take so long; only with kind = "within"'),
    ] = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for kind, key, value in (
            (TargetKind.SIZE, "size", self.size),
            (TargetKind.WITHIN, "seconds", self.seconds),
        ):
            if self.kind is kind and value is None:
                raise ValueError(f'kind = "{kind}" needs `{key}`; set target.{key} as well')
            if self.kind is not kind and value is not None:
                raise ValueError(
                    f'`{key}` is read with kind = "{kind}" only and kind is "{self.kind}"; '
                    f"remove target.{key} or change target.kind"
                )
        return self


class ReclaimSettings(_Section):
    """How memory is taken, and what is left alone."""

    stages: Annotated[
        tuple[Stage, ...],
        Field(
            min_length=1,
            description="the stages that may be used; the order is always that of the plan",
        ),
    ] = tuple(Stage)
    cold_age_seconds: Annotated[
        Number,
        Field(ge=1, le=86400, description="idle for so long counts as cold"),
    ] = 10.0
    timeout_seconds: Annotated[
        Number, Field(ge=0, description="a run ends after so long; 0: no limit")
    ] = 0.0
    swap_reserve_ratio: Annotated[
        Number,
        Field(
            gt=0,
            le=1.2,
            description="this part of the image (uncompressed) is kept free on the resume device",
        ),
    ] = 0.6
    systemd_margin: Annotated[
        Number,
        Field(
            gt=0,
            le=0.98,
            description="active anonymous memory may be this part of what is free on the resume "
            "device (systemd itself refuses above 0.98)",
        ),
    ] = 0.95
    pressure_limit_percent: Annotated[
        Number,
        Field(
            gt=0,
            le=100,
            description="slow down while other programs wait for memory more of the time than "
            "this (PSI some, ten seconds)",
        ),
    ] = 20.0
    chunk_seconds: Annotated[
        Number,
        Field(
            ge=0.02,
            le=1,
            description="the work between two looks at the stop flag and the safety rules",
        ),
    ] = 0.1
    backend: Annotated[
        BackendName | Literal["auto"],
        Field(description="auto: the best that this kernel offers for each step"),
    ] = "auto"


class RateSettings(_Section):
    """Speeds for the time model where they are known better than hibprep measures them."""

    disk_write_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="writing to the resume device")
    ] = None
    disk_read_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="reading from it")
    ] = None
    compress_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="uncompressed bytes, all threads together")
    ] = None
    decompress_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="uncompressed bytes, all threads together")
    ] = None
    shrink_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="the kernel's own shrinking, in one thread")
    ] = None
    copy_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="the atomic copy and its allocation")
    ] = None
    compression_ratio: Annotated[
        Number | None, Field(gt=0, le=1.1, description="compressed ÷ uncompressed")
    ] = None
    fixed_hibernate_seconds: Annotated[
        Number | None, Field(ge=0, le=3600, description="freezing, devices, power-off")
    ] = None
    fixed_resume_seconds: Annotated[
        Number | None, Field(ge=0, le=3600, description="firmware, boot kernel, devices")
    ] = None


class HistorySettings(_Section):
    """What is kept of past runs in /var/lib/hibprep/history.jsonl."""

    keep: Annotated[
        int, Field(strict=True, ge=1, le=100_000, description="so many reports are kept")
    ] = 100


class Config(_Section):
    """The whole configuration; an empty file is a valid one."""

    target_section: Annotated[TargetSettings, Field(alias="target")] = TargetSettings()
    reclaim: ReclaimSettings = ReclaimSettings()
    rates_section: Annotated[RateSettings, Field(alias="rates")] = RateSettings()
    history: HistorySettings = HistorySettings()

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
            backend=section.backend if isinstance(section.backend, BackendName) else None,
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
        return "a list with at least one of " + _words(
            document, _object(node.get("items"))
        ).removeprefix("one of ")
    kind = "a whole number" if node.get("type") == "integer" else "a number"
    if "exclusiveMinimum" in node:
        kind += f" above {node['exclusiveMinimum']:g}"
    elif "minimum" in node:
        kind += f" from {node['minimum']:g}"
    return kind + (f" up to {node['maximum']:g}" if "maximum" in node else "")
