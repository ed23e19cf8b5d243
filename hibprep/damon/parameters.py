# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every parameter of DAMON_RECLAIM (Documentation/admin-guide/mm/damon/reclaim.rst): its unit, its
default, since which kernel, and how people write it. Pure.

Ranges are those of the types in mm/damon/reclaim.c (unsigned long) and of what they are put into
there; where the kernel takes a value that cannot work or that it stumbles over, ours are narrower.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType

from hibprep.sizes import parse_size, shorten

Value = int | bool

LARGEST = 2**64 - 1  # unsigned long
MOST_PER_MILLE = 1000

_DURATION = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*(us|ms|s|min|m|h|d)", re.IGNORECASE)
_MICROSECONDS = {
    "us": 1,
    "ms": 1000,
    "s": 10**6,
    "min": 60 * 10**6,
    "m": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 86400 * 10**6,
}
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%")
_NUMBER = re.compile(r"[0-9]{1,20}|0x[0-9a-f]{1,16}", re.IGNORECASE)
_YES = frozenset({"y", "yes", "1", "on", "true"})
_NO = frozenset({"n", "no", "0", "off", "false"})


class Unit(StrEnum):
    """What a parameter counts, as the kernel takes and shows it."""

    MICROSECONDS = "us"
    MILLISECONDS = "ms"
    BYTES = "bytes"
    PER_MILLE = "per mille"
    COUNT = "count"
    ADDRESS = "address"  # in units of addr_unit, which is 1 byte unless set
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of them. `since` is the first kernel that has it, `least` and `most` are in its unit."""

    name: str
    unit: Unit
    default: Value
    since: str
    least: int = 0
    most: int = LARGEST

    @property
    def example(self) -> str:
        """How a value may be written, for an error."""
        return _EXAMPLES[self.unit]


_EXAMPLES = {
    Unit.MICROSECONDS: "microseconds, or 500us, 100ms, 30s, 2min",
    Unit.MILLISECONDS: "milliseconds, or 100ms, 1s",
    Unit.BYTES: "bytes, or 128M, 1GiB",
    Unit.PER_MILLE: "0 to 1000 per mille of memory, or a percentage such as 40%",
    Unit.COUNT: "a number",
    Unit.ADDRESS: "an address such as 4294967296, 0x100000000 or 4G",
    Unit.SWITCH: "Y or N",
}

_TABLE = (
    Parameter("min_age", Unit.MICROSECONDS, 120_000_000, "5.16"),
    Parameter("autotune_monitoring_intervals", Unit.SWITCH, default=False, since="7.3"),
    Parameter("quota_ms", Unit.MILLISECONDS, 10, "5.16"),
    Parameter("quota_sz", Unit.BYTES, 128 << 20, "5.16"),
    Parameter("quota_reset_interval_ms", Unit.MILLISECONDS, 1000, "5.16"),
    Parameter("quota_mem_pressure_us", Unit.MICROSECONDS, 0, "6.9"),
    Parameter("quota_autotune_feedback", Unit.COUNT, 0, "6.9"),
    Parameter("wmarks_interval", Unit.MICROSECONDS, 5_000_000, "5.16", least=1),
    Parameter("wmarks_high", Unit.PER_MILLE, 500, "5.16", most=MOST_PER_MILLE),
    Parameter("wmarks_mid", Unit.PER_MILLE, 400, "5.16", most=MOST_PER_MILLE),
    Parameter("wmarks_low", Unit.PER_MILLE, 200, "5.16", most=MOST_PER_MILLE),
    Parameter("sample_interval", Unit.MICROSECONDS, 5000, "5.16", least=1),
    # kernels before 6.18 divide by it unasked
    Parameter("aggr_interval", Unit.MICROSECONDS, 100_000, "5.16", least=1),
    Parameter("min_nr_regions", Unit.COUNT, 10, "5.16", least=3),
    Parameter("max_nr_regions", Unit.COUNT, 1000, "5.16", least=3),
    Parameter("monitor_region_start", Unit.ADDRESS, 0, "5.16"),
    Parameter("monitor_region_end", Unit.ADDRESS, 0, "5.16"),
    Parameter("addr_unit", Unit.COUNT, 1, "6.18", least=1),
    Parameter("skip_anon", Unit.SWITCH, default=False, since="6.3"),
)
# In the order of the document.
PARAMETERS: Mapping[str, Parameter] = MappingProxyType({each.name: each for each in _TABLE})
DEFAULTS: Mapping[str, Value] = MappingProxyType({each.name: each.default for each in _TABLE})

# What cannot be set: the state, told by the kernel.
STATISTICS = (
    "nr_reclaim_tried_regions",
    "bytes_reclaim_tried_regions",
    "nr_reclaimed_regions",
    "bytes_reclaimed_regions",
    "nr_quota_exceeds",
)

# By name. `document` is the example of the document, line for line.
PRESETS: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {
        "document": MappingProxyType(
            {
                "min_age": 30_000_000,
                "quota_sz": 1 << 30,
                "quota_reset_interval_ms": 1000,
                "wmarks_high": 500,
                "wmarks_mid": 400,
                "wmarks_low": 200,
            }
        )
    }
)


def parse_value(parameter: Parameter, text: str) -> Value:
    """What a person or the kernel wrote, in the parameter's unit; ValueError says what may be
    written. A plain number is in the unit of the document."""
    word = text.strip()
    if parameter.unit is Unit.SWITCH:
        return _switch(parameter, word)
    value = _number(parameter, word)
    if value is None:
        raise ValueError(f"{parameter.name}: {shorten(repr(word))} is not {parameter.example}")
    if not parameter.least <= value <= parameter.most:
        raise ValueError(
            f"{parameter.name}: {value} is not from {parameter.least} to {parameter.most}"
        )
    return value


def kernel_text(value: Value) -> str:
    """A value as the kernel takes it, and shows it afterwards."""
    if isinstance(value, bool):
        return "Y" if value else "N"
    return str(value)


def shown(parameter: Parameter, value: Value) -> str:
    """A value with its unit, for a person."""
    if isinstance(value, bool):
        return kernel_text(value)
    if parameter.unit is Unit.MICROSECONDS:
        return _short_time(value)
    if parameter.unit is Unit.MILLISECONDS:
        return _short_time(value * 1000)
    if parameter.unit is Unit.PER_MILLE:
        return f"{value / 10:g} %"
    if parameter.unit is Unit.BYTES:
        return _short_size(value)
    return hex(value) if parameter.unit is Unit.ADDRESS else str(value)


def _switch(parameter: Parameter, word: str) -> bool:
    if word.lower() in _YES | _NO:
        return word.lower() in _YES
    raise ValueError(f"{parameter.name}: {shorten(repr(word))} is not {parameter.example}")


def _number(parameter: Parameter, word: str) -> int | None:
    """The number in the parameter's unit; None when it is none, or no whole one."""
    if _NUMBER.fullmatch(word) and (not word[1:2].isalpha() or parameter.unit is Unit.ADDRESS):
        return int(word, 0) if word[1:2].isalpha() else int(word)
    if parameter.unit in (Unit.BYTES, Unit.ADDRESS):
        try:
            return parse_size(word)
        except ValueError:
            return None
    exact: Decimal | None = None
    if parameter.unit is Unit.PER_MILLE and (match := _PERCENT.fullmatch(word)):
        exact = Decimal(match[1]) * 10
    elif parameter.unit in (Unit.MICROSECONDS, Unit.MILLISECONDS) and (
        match := _DURATION.fullmatch(word)
    ):
        exact = Decimal(match[1]) * _MICROSECONDS[match[2].lower()]
        if parameter.unit is Unit.MILLISECONDS:
            exact /= 1000
    return int(exact) if exact is not None and exact == int(exact) else None


def _short_time(microseconds: int) -> str:
    for unit, size in (("s", 10**6), ("ms", 1000)):
        if microseconds >= size:
            return f"{microseconds / size:g} {unit}"
    return f"{microseconds} us" if microseconds else "0"


def _short_size(size_bytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= size:
            return f"{size_bytes / size:g} {unit}"
    return f"{size_bytes} bytes" if size_bytes else "0"
