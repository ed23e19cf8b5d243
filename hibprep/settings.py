# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declarations of the settings: of the target, reclaim, the time model and the history.

What the daemon is told is in `hibprep.settings_daemon`; how files are read in `hibprep.config`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from hibprep.model import BackendName, Stage, TargetKind, ZramUse, ZswapUse
from hibprep.sizes import LARGEST_BYTES, SIZE_WORDS, parse_size

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
Argument = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$"),
    Field(description="a text that is not empty"),
]


class Section(BaseModel):
    """Base of all sections: frozen, and nothing that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TargetSettings(Section):
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


class ReclaimSettings(Section):
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
    zswap: Annotated[
        ZswapUse,
        Field(
            description="where zswap is on, avoid: all that is swapped out goes to the disk; "
            "less-cold: so does what is known to be cold, the rest goes to zswap and stays in the "
            "image; leave"
        ),
    ] = ZswapUse.AVOID
    zram: Annotated[
        ZramUse,
        Field(
            description="before prepare and hibernate, what is in zram is left; written back: to "
            "the device behind it, where there is one; out: before hibernate, swap on zram is "
            "switched off until the resume, where that is safe"
        ),
    ] = ZramUse.LEAVE
    backend: Annotated[
        BackendName | Literal["auto"],
        Field(description="auto: the best that this kernel offers for each step"),
    ] = "auto"


class RateSettings(Section):
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
    swap_out_bytes_per_second: Annotated[
        BytesPerSecond | None,
        Field(description="reclaiming anonymous memory; never faster than the disk is written"),
    ] = None
    drop_bytes_per_second: Annotated[
        BytesPerSecond | None, Field(description="reclaiming clean page cache and slab")
    ] = None
    fixed_prepare_seconds: Annotated[
        Number | None, Field(ge=0, le=3600, description="of a preparation, beside its steps")
    ] = None


class HistorySettings(Section):
    """What is kept of past runs in /var/lib/hibprep/history.jsonl."""

    keep: Annotated[
        int, Field(strict=True, ge=1, le=100_000, description="so many reports are kept")
    ] = 100
