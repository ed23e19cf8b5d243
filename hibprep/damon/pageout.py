# SPDX-License-Identifier: LGPL-2.1-or-later
"""What DAMON is told for "page out what is colder than that": intervals, schemes, filters. Pure.

Documentation/mm/damon/design.rst. Ages are counted in aggregations, and an aggregation has at
least twenty samples, so that an access in any twentieth of it is seen. A region is sampled at one
page, but every page of it is looked at again before it is paged out (from 6.10 on by the filter
"young", before by damon_pa_pageout() itself).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

_SAMPLES = 20
_LEAST_AGGR_US, _MOST_AGGR_US = 100_000, 2_000_000
_AGGREGATIONS_OF_AGE = 10
_MIN_REGIONS, _MAX_REGIONS = 10, 1000
_SETTLING = 3
_NO_AGE_LIMIT = 2**32 - 1  # ages are counted in an unsigned int
APPLY_US = 100_000  # how often schemes are applied, and how long a quota is for
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Attributes:
    """How memory is watched."""

    sample_us: int
    aggr_us: int

    @classmethod
    def for_age(cls, seconds: float) -> Attributes:
        """Fine enough to tell that age, and no finer: each sample costs a walk of reverse maps."""
        aggr = int(seconds * 1e6 / _AGGREGATIONS_OF_AGE)
        aggr = min(max(aggr, _LEAST_AGGR_US), _MOST_AGGR_US)
        return cls(sample_us=aggr // _SAMPLES, aggr_us=aggr)

    def aggregations(self, seconds: float) -> int:
        """So many that they take at least so long."""
        return -int(-seconds * 1e6 // self.aggr_us)

    def files(self) -> Iterator[tuple[str, str]]:
        """Below monitoring_attrs/. The longer interval first: it may not be below the other."""
        yield "intervals/aggr_us", str(self.aggr_us)
        yield "intervals/sample_us", str(self.sample_us)
        yield "nr_regions/min", str(_MIN_REGIONS)
        yield "nr_regions/max", str(_MAX_REGIONS)


@dataclass(frozen=True, slots=True)
class Filter:
    """Leaves out memory of which `matching` is what it says: anonymous, or charged to a cgroup (to
    itself, not to those below it)."""

    matching: bool
    memcg: str = ""  # empty: anonymous memory

    def files(self) -> Iterator[tuple[str, str]]:
        """Below filters/N/."""
        yield "type", "memcg" if self.memcg else "anon"
        if self.memcg:
            yield "memcg_path", self.memcg
        yield "matching", "Y" if self.matching else "N"


@dataclass(frozen=True, slots=True)
class Scheme:
    """One scheme: page out regions that were not accessed for from `least_age` to `most_age`
    aggregations, at most `quota_bytes` at a time."""

    least_age: int
    quota_bytes: int
    filters: tuple[Filter, ...]
    most_age: int = _NO_AGE_LIMIT

    def files(self, mark: int) -> Iterator[tuple[str, str]]:
        """Below schemes/N/, `mark` for the largest region."""
        yield "action", "pageout"
        yield "access_pattern/sz/min", str(PAGE)
        yield "access_pattern/sz/max", str(mark)
        yield "access_pattern/nr_accesses/max", "0"
        yield "access_pattern/age/min", str(self.least_age)
        yield "access_pattern/age/max", str(self.most_age)
        yield "quotas/bytes", str(self.quota_bytes)
        yield "quotas/reset_interval_ms", str(APPLY_US // 1000)
        yield "quotas/weights/age_permil", "1000"
        yield "apply_interval_us", str(APPLY_US)


def schemes_for(
    *,
    anon: bool,
    least_age: int,
    quota_bytes: int,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
) -> tuple[Scheme, ...]:
    """A scheme for the whole machine, or one for each cgroup of `only`, as filters can leave out
    and not put together (before 6.14). The quota is shared out. `without` are left alone."""
    kind = Filter(matching=not anon)
    spared = tuple(Filter(matching=True, memcg=path) for path in without)
    base = Scheme(least_age, quota_bytes, (kind, *spared))
    if not only:
        return (base,)
    share = max(PAGE, quota_bytes // len(only))
    return tuple(
        Scheme(least_age, share, (kind, Filter(matching=False, memcg=path))) for path in only
    )


def with_quota(schemes: Sequence[Scheme], quota_bytes: int) -> tuple[Scheme, ...]:
    """The same with another quota, shared out."""
    share = max(PAGE, quota_bytes // len(schemes))
    return tuple(replace(each, quota_bytes=share) for each in schemes)


def only_again(schemes: Sequence[Scheme], aggregations: int) -> tuple[Scheme, ...]:
    """The same for what was paged out within the last so many aggregations alone: a region's age
    begins anew when it is, and what was not is older, by the age that it had then."""
    most = max(aggregations, schemes[0].least_age) + _SETTLING
    return tuple(replace(each, most_age=most) for each in schemes)
