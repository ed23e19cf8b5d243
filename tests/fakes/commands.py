# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fake kernel's files do when they are written to: commands and settings.

Each takes the machine and the text of one write(2), and raises the OSError that a kernel of that
version would answer with.
"""

from __future__ import annotations

import errno
import re

from tests.fakes.reclaiming import ANON_ONLY, ReclaimingMachine
from tests.fakes.state import FakeCgroup, FakeSwap, failure, whole

_SUFFIXES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_AMOUNT = re.compile(r"([0-9]+)([kmgt]?)", re.IGNORECASE)


def _amount(machine: ReclaimingMachine, text: str) -> tuple[int, int]:
    """The bytes and the swappiness of a reclaim command."""
    words = text.split()
    found = _AMOUNT.fullmatch(words[0]) if words else None
    if not found:
        raise failure(errno.EINVAL)
    amount = whole(int(found[1]) << _SUFFIXES[found[2].lower()])
    swappiness = machine.swappiness
    for word in words[1:]:
        name, _, value = word.partition("=")
        if name != "swappiness" or machine.kernel < (6, 11):
            raise failure(errno.EINVAL)
        if value == "max" and machine.kernel >= (6, 16):
            swappiness = ANON_ONLY
        elif value.isdigit() and int(value) <= 200:
            swappiness = int(value)
        else:
            raise failure(errno.EINVAL)
    return amount, swappiness


def write_reclaim(machine: ReclaimingMachine, target: str, text: str) -> None:
    amount, swappiness = _amount(machine, text)
    if not amount:
        return
    machine.reclaims += 1
    half = machine.again_every > 0 and machine.reclaims % machine.again_every == 0
    freed = machine.reclaim(target, whole(amount / 2) if half else amount, swappiness)
    if machine.bytes_per_second:
        machine.advance(freed / machine.bytes_per_second)
    if half or freed < amount:
        raise failure(errno.EAGAIN)


def write_node_reclaim(machine: ReclaimingMachine, text: str) -> None:
    amount, _ = _amount(machine, text)
    cache = sum(each.file_bytes + each.dirty_bytes for each in machine.by_path.values())
    slab = sum(each.slab_bytes for each in machine.by_path.values())
    # __node_reclaim() looks at the page cache even when anon is asked for
    if (
        amount
        and cache <= machine.total_bytes * machine.min_unmapped_ratio / 100
        and slab <= machine.total_bytes * machine.min_slab_ratio / 100
    ):
        raise failure(errno.EAGAIN)
    write_reclaim(machine, "/", text)


def write_drop_caches(machine: ReclaimingMachine, text: str) -> None:
    word = text.strip()
    if word not in ("1", "2", "3", "4"):
        raise failure(errno.EINVAL)
    if word == "4":
        return
    if int(word) & 1:
        machine.count("drop_pagecache", 1)
    if int(word) & 2:
        machine.count("drop_slab", 1)
    for each in machine.by_path.values():
        if int(word) & 1:
            each.file_bytes = 0
        if int(word) & 2:
            each.slab_bytes = 0


def write_generations(machine: ReclaimingMachine, text: str) -> None:
    for command in re.split(r"[\n,;]", text):
        words = command.split()
        if not words:
            continue
        if len(words) < 4 or not all(word.isdigit() for word in words[1:4]):
            raise failure(errno.EINVAL)
        number, node, sequence = (int(word) for word in words[1:4])
        cgroup = next((e for e in machine.by_path.values() if e.memcg_id == number), None)
        if cgroup is None or node != 0 or not machine.lru_gen:
            raise failure(errno.EINVAL)
        if words[0] == "+":
            machine.age(cgroup, sequence)
        elif words[0] == "-":
            machine.evict(cgroup, sequence, words[4:])
        else:
            raise failure(errno.EINVAL)


def write_swappiness(machine: ReclaimingMachine, text: str) -> None:
    word = text.strip()
    if not word.isdigit() or int(word) > 200:
        raise failure(errno.EINVAL)
    machine.swappiness = int(word)


def write_ratio(machine: ReclaimingMachine, name: str, text: str) -> None:
    word = text.strip()
    if not word.isdigit() or int(word) > 100:
        raise failure(errno.EINVAL)
    setattr(machine, name, int(word))


def write_image_size(machine: ReclaimingMachine, text: str) -> None:
    # sscanf("%lu"): what follows the digits is not looked at
    found = re.match(r"\s*([0-9]+)", text)
    if not found:
        raise failure(errno.EINVAL)
    machine.image_size_bytes = int(found[1])


def write_lru_gen(machine: ReclaimingMachine, text: str) -> None:
    word = text.strip().lower()
    try:
        on = word == "y" if word in ("y", "n") else bool(int(word, 0) & 1)
    except ValueError:
        raise failure(errno.EINVAL) from None
    if on and not machine.lru_gen:
        machine.fill_generations()
    machine.lru_gen = on


def write_zswap(machine: ReclaimingMachine, text: str) -> None:
    word = text.strip().lower()
    if word not in ("y", "n", "1", "0"):
        raise failure(errno.EINVAL)
    machine.zswap = word in ("y", "1")


def write_zswap_writeback(cgroup: FakeCgroup, text: str) -> None:
    if text.strip() not in ("0", "1"):
        raise failure(errno.EINVAL)
    cgroup.zswap_writeback = text.strip() == "1"


def write_idle(swap: FakeSwap, text: str) -> None:
    if text.strip() != "all":
        raise failure(errno.EINVAL)
    swap.idle_bytes = swap.used_bytes - swap.written_bytes


def write_writeback(machine: ReclaimingMachine, swap: FakeSwap, text: str) -> None:
    """As writeback_store(): idle pages until the limit is spent (EIO) or there is no more room."""
    if text.strip() != "idle":
        raise failure(errno.EINVAL)
    if not swap.backing:
        raise failure(errno.ENODEV)
    allowed = swap.writeback_limit * 4096 if swap.writeback_limited else swap.used_bytes
    written = min(
        swap.idle_bytes, swap.used_bytes - swap.written_bytes, allowed, swap.backing_free_bytes
    )
    swap.written_bytes += written
    swap.idle_bytes -= written
    swap.backing_free_bytes -= written
    if swap.writeback_limited:
        swap.writeback_limit -= written // 4096
    if machine.bytes_per_second:
        machine.advance(written / machine.bytes_per_second)
    if swap.idle_bytes and not swap.backing_free_bytes:
        raise failure(errno.ENOSPC)
    if swap.idle_bytes:
        raise failure(errno.EIO)


def write_writeback_limit(swap: FakeSwap, name: str, text: str) -> None:
    if not text.strip().isdigit():
        raise failure(errno.EINVAL)
    if name == "writeback_limit":
        swap.writeback_limit = int(text)
    else:
        swap.writeback_limited = text.strip() != "0"


def write_limit(machine: ReclaimingMachine, cgroup: FakeCgroup, name: str, text: str) -> None:
    word = text.strip()
    if word == "max":
        value: int | None = None
    elif word.isdigit():
        value = whole(int(word))
    else:
        raise failure(errno.EINVAL)
    if name == "swap_max_bytes":
        cgroup.swap_max_bytes = value
    elif name == "zswap_max":
        cgroup.zswap_max = "max" if value is None else str(value)
    else:
        setattr(cgroup, name, machine.total_bytes if value is None else value)
