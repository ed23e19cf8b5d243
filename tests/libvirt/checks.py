# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests of guests on the rig hold, whatever was done with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hibprep.guests.record import NAMESPACE

if TYPE_CHECKING:
    from tests.libvirt.rig_guest import RigGuest

CACHE_MIB = 200


def recorded(guest: RigGuest) -> bool:
    """Whether an undo record is in its metadata."""
    return NAMESPACE in guest.domain.XMLDesc()


def assert_as_before(guest: RigGuest, full: int) -> None:
    """It runs, has all its memory, and nothing of ours is in its metadata."""
    assert guest.domain.isActive()
    assert guest.actual_bytes() == full
    assert not recorded(guest)


@contextmanager
def full_size(guest: RigGuest) -> Iterator[int]:
    """It is as before at the end of the block."""
    full = guest.actual_bytes()
    yield full
    assert_as_before(guest, full)


def fill_cache(guest: RigGuest, mib: int = CACHE_MIB) -> None:
    """Page cache that is clean, and holds nothing that could be compressed."""
    guest.resident.run(
        ["dd", "if=/dev/urandom", "of=/var/tmp/cache", "bs=1M", f"count={mib}"],
        timeout=300,
        check=True,
    )
    guest.resident.run(["sync"], timeout=120, check=True)
