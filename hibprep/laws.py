# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the laws by which two well-known systems size what they take from a program at work.

Both look at pressure once in an interval of six seconds, and both were made for one cgroup; here
they are asked for the machine as a whole, with what is in use in the place of memory.current.

- **senpai** (`Senpai.tick()` in senpai.py of github.com/facebookincubator/senpai; the constants are
  the defaults of its options): it sets memory.high, and moves it by a share that grows with the
  square of how far the stalls of the interval are from the wanted ones.
- **TMO** (J. Weiner et al., "TMO: Transparent Memory Offloading in Datacenters", ASPLOS 2022,
  section 3.3): what goes is a fixed small share of memory, less in proportion to the pressure.
"""

from __future__ import annotations

from enum import StrEnum

INTERVAL_SECONDS = 6.0

SENPAI_PRESSURE_MICROSECONDS = 10_000  # --pressure: the stalls that are wanted in an interval
SENPAI_MAX_PROBE = 0.01
SENPAI_MAX_BACKOFF = 1.0
SENPAI_COEFF_PROBE = 10
SENPAI_COEFF_BACKOFF = 20
SENPAI_MIN_BYTES = 100 << 20  # --min-size
_SENPAI_MASK = ~4095

TMO_RECLAIM_RATIO = 0.0005
TMO_THRESHOLD_SHARE = 0.001
TMO_MOST_SHARE = 0.01


class Law(StrEnum):
    """How the amount of a round is found."""

    SHARE = "share"  # hibprep's own, in `hibprep.pace`
    SENPAI = "senpai"
    TMO = "tmo"


def senpai_adjustment(stalled_microseconds: float) -> float:
    """By which share senpai moves memory.high after an interval with so much time (0 or more) lost
    to memory pressure ("some"): below 0 it tightens, at most by SENPAI_MAX_PROBE, which it reaches
    at 1/SENPAI_COEFF_PROBE of the wanted pressure; above 0 it backs off, at most by
    SENPAI_MAX_BACKOFF, at SENPAI_COEFF_BACKOFF times the wanted pressure."""
    wanted = SENPAI_PRESSURE_MICROSECONDS
    if stalled_microseconds > wanted:
        error = stalled_microseconds / wanted
        back = (error / SENPAI_COEFF_BACKOFF) ** 2 * SENPAI_MAX_BACKOFF
        return min(back, SENPAI_MAX_BACKOFF)
    error = wanted / max(stalled_microseconds, 1)
    probe = (error / SENPAI_COEFF_PROBE) ** 2 * SENPAI_MAX_PROBE
    return -min(probe, SENPAI_MAX_PROBE)


def senpai_bytes(current_bytes: int, stalled_microseconds: float) -> int:
    """What goes after an interval where senpai would put memory.high below `current_bytes`; 0 where
    it would back off. Its lower bound holds; the upper one (100 GiB) is for a cgroup, and left
    out: it would make everything above it go at once."""
    limit = int(current_bytes + current_bytes * senpai_adjustment(stalled_microseconds))
    limit = max(SENPAI_MIN_BYTES, limit) & _SENPAI_MASK
    # rounding the limit down to pages is a page more than the share, and never a reason to take
    return max(0, current_bytes - limit) if limit < current_bytes & _SENPAI_MASK else 0


def tmo_bytes(current_bytes: int, *, memory: float, io: float) -> int:
    """What goes after an interval in which those shares of time (0 to 1) were lost to memory and to
    I/O pressure ("some"): `current × reclaim_ratio × max(0, 1 - PSI / PSI_threshold)`, the smaller
    of the two, and never more than TMO_MOST_SHARE of what is in use."""
    worst = max(memory, io)
    share = TMO_RECLAIM_RATIO * max(0.0, 1 - worst / TMO_THRESHOLD_SHARE)
    return int(current_bytes * min(share, TMO_MOST_SHARE))
