# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what a cloud says is going to happen to this machine, in one form for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class NoticeKind(StrEnum):
    """What is going to be done to the machine, or may be."""

    HIBERNATE = "hibernate"
    STOP = "stop"  # switched off; its disks stay
    TERMINATE = "terminate"  # switched off for good
    MIGRATE = "migrate"  # moved to another host while it runs
    FREEZE = "freeze"  # stands still for seconds, and goes on where it was
    REBOOT = "reboot"
    REBALANCE = "rebalance"  # at risk of one of the others; not decided


class ProviderName(StrEnum):
    """Who gives notices."""

    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"
    ALIBABA = "alibaba"
    TENCENT = "tencent"
    OPENSTACK = "openstack"
    COMMAND = "command"  # a program of the administrator's
    SIMULATED = "simulated"  # `hibprep notices simulate`


Key = tuple[ProviderName, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One notice. `source` and `id` together tell it from all others, also after a restart."""

    kind: NoticeKind
    source: ProviderName
    id: str  # the provider's own where it has one, else made of what is announced and when
    at: datetime | None = None  # UTC, by the provider's clock; None: no time is told
    begun: bool = False  # there is no time left to count on, whatever `at` says
    lead_seconds: float | None = None  # where no time is told: what the provider promises at least
    acknowledge: str = ""  # what the provider wants to be told when we are ready; "": nothing
    text: str = ""  # the provider's own words, for people


def key_of(notice: Notice) -> Key:
    """What tells it from all others."""
    return notice.source, notice.id
