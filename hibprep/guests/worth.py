# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long preparing a guest may take, where it is to be sooner on its way than unprepared. Pure.

Everything is measured by the seconds that the sending is spared, which are known from the guest's
statistics before anything is done; the balloon's part by what is left to be spared then, the
guest's own by what it uses as well: only of that anything can be cold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# So much of them the guest may take, the reporting may go on until so much has passed
_GUESTS_SHARE = 0.7
_REPORTINGS_SHARE = 0.9
# To find out what is cold and swap it out. Who has less time needs the guest for nothing: for the
# balloon its kernel drops its cache by itself, and that is all of the work instead of half of it
_COLD_SECONDS = 15.0
_COLD_SHARE = 0.5  # of what it uses, as far as anybody can know from outside: no more is cold
# A balloon that takes longer than it spares the sending is let go on down to this share of the pace
# at which both are the same: what it takes burdens no network
_SLOWEST_SHARE = 0.7
_LEAST_SPARED_SECONDS = 3.0  # it is asked how it is, twice, and the pace of its balloon is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What preparing one guest is worth. `spared_seconds` of its sending, None where it may take
    as long as it takes; `used_seconds` to send what it uses; `began_seconds` by a clock whose time
    each method is told."""

    spared_seconds: float | None = None
    used_seconds: float = math.inf
    began_seconds: float = 0.0

    @property
    def why_not(self) -> str:
        """Why the guest is better left as it is; empty where it is not."""
        if self.spared_seconds is None or self.spared_seconds >= _LEAST_SPARED_SECONDS:
            return ""
        return (
            f"left as it is: the sending would be {self.spared_seconds:.1f} s shorter, and "
            "preparing takes longer"
        )

    def guest_seconds(self, now_seconds: float) -> float:
        """How long the guest may be at it; 0: it need not be asked. What it swaps out takes longer
        on a slow disk than it takes to be sent over a fast network."""
        left = self._left(_GUESTS_SHARE, now_seconds)
        if self.spared_seconds is not None:
            left = min(left, _COLD_SHARE * self.used_seconds)
        return left if left >= _COLD_SECONDS else 0.0

    def reporting_seconds(self, now_seconds: float) -> float:
        """How long it may be waited for the guest's kernel to report."""
        return max(0.0, self._left(_REPORTINGS_SHARE, now_seconds))

    def _left(self, share: float, now_seconds: float) -> float:
        if self.spared_seconds is None:
            return math.inf
        return self.began_seconds + share * self.spared_seconds - now_seconds


def least_pace(taken_bytes: int, spared_seconds: float) -> float:
    """How fast a balloon must go, in bytes a second, that takes so much and spares so much. What it
    takes and was never touched gains nothing, and takes as long."""
    if spared_seconds <= 0:
        return math.inf
    return _SLOWEST_SHARE * taken_bytes / spared_seconds
