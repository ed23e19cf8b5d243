# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the parameters of DAMON_RECLAIM make sense together; every error at once. Pure.

After mm/damon/core.c (damon_set_attrs, damon_set_regions, damon_commit_ctx), which answers EINVAL
to some of it when it is enabled, switches itself off for it when it reads its inputs again, and
takes the rest without a word, to do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hibprep.damon.parameters import DEFAULTS, Value

PAGE = 4096  # DAMON_MIN_REGION_SZ is a page
_MOST_COUNTED = 2**32 - 1  # ages and accesses are counted in an unsigned int
_AUTOTUNED_SAMPLE_US = (5000, 10_000_000)

Range = tuple[int, int]  # start, end: the end is the first byte behind


def errors(
    values: Mapping[str, Value], ram: Sequence[Range] = (), *, page: int = PAGE
) -> tuple[str, ...]:
    """What is wrong with all values together, in words; what is missing has its default. `ram` is
    the machine's System RAM (empty: not known)."""
    full = {**DEFAULTS, **values}
    found = [*_intervals(full), *_regions(full), *_quotas(full, page), *_watermarks(full)]
    return (*found, *_range(full, ram, page))


def _intervals(of: Mapping[str, Value]) -> Iterator[str]:
    sample, aggr, age = of["sample_interval"], of["aggr_interval"], of["min_age"]
    if sample > aggr:
        yield f"sample_interval ({sample} us) is longer than aggr_interval ({aggr} us)"
    elif aggr // sample > _MOST_COUNTED:
        yield f"aggr_interval ({aggr} us) is too many samples of {sample} us: 2^32 are counted"
    if age // aggr > _MOST_COUNTED:
        yield f"min_age ({age} us) is more than 2^32 aggregations of {aggr} us: none gets so old"
    if age < aggr:
        yield (
            f"min_age ({age} us) is shorter than aggr_interval ({aggr} us): ages are counted in "
            "aggregations, so everything would be cold"
        )
    low, high = _AUTOTUNED_SAMPLE_US
    if of["autotune_monitoring_intervals"] and not low <= sample <= high:
        yield (
            f"sample_interval ({sample} us) is not from {low} to {high} us, as "
            "autotune_monitoring_intervals demands"
        )


def _regions(of: Mapping[str, Value]) -> Iterator[str]:
    least, most = of["min_nr_regions"], of["max_nr_regions"]
    if least > most:
        yield f"min_nr_regions ({least}) is more than max_nr_regions ({most})"


def _quotas(of: Mapping[str, Value], page: int) -> Iterator[str]:
    size, milliseconds = of["quota_sz"], of["quota_ms"]
    reset, pressure = of["quota_reset_interval_ms"], of["quota_mem_pressure_us"]
    if 0 < size < page:
        yield f"quota_sz ({size}) is less than a page of {page} bytes: nothing would be reclaimed"
    if (size or milliseconds) and not reset:
        yield "quota_reset_interval_ms is 0: no quota would ever hold; give it, or no quota"
    elif milliseconds > reset:
        yield f"quota_ms ({milliseconds}) is more than quota_reset_interval_ms ({reset})"
    if pressure and pressure > reset * 1000:
        yield (
            f"quota_mem_pressure_us ({pressure}) is more than quota_reset_interval_ms ({reset} "
            "ms), and is never reached"
        )


def _watermarks(of: Mapping[str, Value]) -> Iterator[str]:
    low, middle, high = of["wmarks_low"], of["wmarks_mid"], of["wmarks_high"]
    if not low <= middle <= high:
        yield (
            f"watermarks are not low <= mid <= high: wmarks_low {low}, wmarks_mid {middle}, "
            f"wmarks_high {high}"
        )


def _range(of: Mapping[str, Value], ram: Sequence[Range], page: int) -> Iterator[str]:
    unit = of["addr_unit"]
    smallest = max(page // unit, 1)
    if smallest & (smallest - 1):
        yield f"addr_unit ({unit}) does not divide a page of {page} bytes into a power of 2"
    start, end = of["monitor_region_start"] * unit, of["monitor_region_end"] * unit
    if not start and not end:
        return  # the kernel takes System RAM itself
    if end - start < page:
        yield (
            f"monitor_region_start ({start:#x}) to monitor_region_end ({end:#x}) is less than a "
            "page"
        )
    elif ram and not _inside(start, end, ram):
        known = ", ".join(f"{first:#x} to {last:#x}" for first, last in ram)
        yield (
            f"monitor_region_start ({start:#x}) to monitor_region_end ({end:#x}) does not begin "
            f"and end in System RAM ({known})"
        )


def _inside(start: int, end: int, ram: Sequence[Range]) -> bool:
    """Whether it begins and ends in memory. Holes in the middle do no harm (pfn_to_online_page),
    and from 7.3 on the kernel's own default has them."""
    begins = any(first <= start < last for first, last in ram)
    return begins and any(first < end <= last for first, last in ram)
