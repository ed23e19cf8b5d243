# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's arithmetic against figures computed by hand, the time model and both fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hibprep import fitting, predict
from hibprep.model import Limits, Memory, Power, Rates, Snapshot, SwapArea, Zone
from tests.unit.strategies import GIB, MIB, PAGE, RATES, saveable_bytes, snapshots, swap_out

# /proc/zoneinfo of a 2 GiB guest as QEMU gives it: a hole below 1 MiB, and DMA32 spanning 4 GiB
# less the first 16 MiB although there is memory in half of that only.
DMA = Zone(
    node=0,
    name="DMA",
    present_pages=3998,
    managed_pages=3840,
    spanned_pages=4095,
    free_pages=3840,
    high_pages=129,
    protection_pages=(0, 1945, 1945, 1945, 1945),
)
DMA32 = Zone(
    node=0,
    name="DMA32",
    present_pages=520_159,
    managed_pages=497_952,
    spanned_pages=1_044_480,
    free_pages=350_000,
    high_pages=16_766,
    protection_pages=(0, 0, 0, 0, 0),
)
DISK = SwapArea(
    path="/dev/vdb", is_file=False, size_bytes=4 * GIB, used_bytes=0, priority=-2, device="254:16"
)
DEFAULT_IMAGE_SIZE = 200_716 * PAGE  # totalram * 2 / 5, totalram being 3840 + 497952 pages


def guest(
    *,
    free: int = 350_000,
    image_size_bytes: int = DEFAULT_IMAGE_SIZE,
    anon: int = 330_000,
    file: int = 60_000,
    slab: int = 5000,
    swaps: tuple[SwapArea, ...] = (DISK,),
) -> Snapshot:
    """That guest with so many pages free in DMA32; a third of anon and file is active."""
    return Snapshot(
        page_size=PAGE,
        memory=Memory(
            total_bytes=501_792 * PAGE,
            free_bytes=(free + 3840) * PAGE,
            active_anon_bytes=anon // 3 * PAGE,
            inactive_anon_bytes=(anon - anon // 3) * PAGE,
            active_file_bytes=file // 3 * PAGE,
            inactive_file_bytes=(file - file // 3) * PAGE,
            slab_reclaimable_bytes=slab * PAGE,
        ),
        zones=(DMA, replace(DMA32, free_pages=free)),
        swaps=swaps,
        power=Power(
            available=True,
            image_size_bytes=image_size_bytes,
            reserved_size_bytes=MIB,
            resume_device="254:16",
        ),
    )


# --- the kernel's arithmetic ------------------------------------------------------------------


def test_reserve_is_protection_and_high_watermark_of_each_zone() -> None:
    assert predict.reserve_pages([DMA]) == 1945 + 129
    assert predict.reserve_pages([DMA, DMA32]) == 2074 + 16_766


def test_reserve_of_a_zone_is_never_more_than_the_zone() -> None:
    tiny = replace(DMA, managed_pages=1000)
    assert predict.reserve_pages([tiny]) == 1000


@pytest.mark.parametrize(
    ("spanned", "expected"),
    [
        (0, 0),
        (1, 2 * (1 + 1)),  # one bitmap page and one page of tree nodes
        (4095, 2 * (1 + 1)),
        (32_768, 2 * (1 + 1)),  # exactly the bits of one page
        (32_769, 2 * (2 + 1 + 1)),  # two leaves need a level above
        (1_044_480, 2 * (32 + 1 + 1)),
        (512 * 32_768, 2 * (512 + 4 + 1)),  # 512 × 24 bytes of nodes in pages of 4088
        (513 * 32_768, 2 * (513 + 4 + 2 + 1)),  # a second level
    ],
)
def test_metadata_is_the_radix_tree_of_the_zone(spanned: int, expected: int) -> None:
    assert predict.metadata_pages(replace(DMA, spanned_pages=spanned), PAGE) == expected


def test_saveable_and_free_are_all_that_is_present() -> None:
    snapshot = guest()
    assert predict.free_pages(snapshot) == 353_840
    assert predict.saveable_pages(snapshot) == 158 + 170_159


# count = 524157 present - 18840 reserve = 505317; (505317 - (4 + 68 + 1024)) / 2 - 2 × 256
@pytest.mark.parametrize("free", [350_000, 60_000, 0])
def test_the_largest_image_does_not_depend_on_how_full_memory_is(free: int) -> None:
    assert predict.max_image_pages(guest(free=free)) == 251_598


def test_reserved_size_costs_twice_its_pages_rounded_up() -> None:
    snapshot = guest()
    less = replace(snapshot, power=replace(snapshot.power, reserved_size_bytes=MIB + 1))
    assert predict.max_image_pages(less) == 251_598 - 2


@pytest.mark.parametrize(
    ("image_size_bytes", "expected"),
    [
        (0, 0),
        (1, 1),  # what "1G" becomes in sysfs: one byte
        (PAGE, 1),
        (PAGE + 1, 2),
        (DEFAULT_IMAGE_SIZE, 200_716),
        (251_598 * PAGE, 251_598),
        (4 * GIB, 251_598),
    ],
)
def test_target_is_image_size_but_at_most_the_largest_image(
    image_size_bytes: int, expected: int
) -> None:
    assert predict.target_pages(guest(image_size_bytes=image_size_bytes)) == expected
    assert predict.target_pages(guest(), image_size_bytes) == expected


def test_nothing_to_shrink_when_saveable_is_small_enough() -> None:
    assert predict.shrink_pages(guest()) == 0  # 170317 <= 200716


@pytest.mark.parametrize(
    ("image_size_bytes", "anon", "minimum", "shrink"),
    [
        (DEFAULT_IMAGE_SIZE, 330_000, 65_317, 460_317 - 200_716),
        (0, 330_000, 65_317, 395_000),  # down to the minimum, no further
        (0, 35_000, 360_317, 460_317 - 251_598),  # the minimum is over the largest image
        (DEFAULT_IMAGE_SIZE, 35_000, 360_317, 460_317 - 251_598),
        (DEFAULT_IMAGE_SIZE, 180_000, 215_317, 245_000),  # the minimum is over image_size
        (0, 460_000, 0, 460_317),  # all of it is said to be reclaimable
    ],
)
def test_shrink_of_a_full_guest(
    image_size_bytes: int, anon: int, minimum: int, shrink: int
) -> None:
    full = guest(free=60_000, image_size_bytes=image_size_bytes, anon=anon)
    assert predict.saveable_pages(full) == 460_317
    assert predict.minimum_pages(full) == minimum
    assert predict.shrink_pages(full) == shrink


def test_the_minimum_takes_anon_for_swappable_without_swap_too() -> None:
    full = guest(free=60_000, swaps=())
    assert predict.minimum_pages(full) == 65_317


@given(snapshot=snapshots())
def test_arithmetic_keeps_its_bounds(snapshot: Snapshot) -> None:
    saveable = predict.saveable_pages(snapshot)
    largest = predict.max_image_pages(snapshot)
    target = predict.target_pages(snapshot)
    shrink = predict.shrink_pages(snapshot)
    assert 0 <= target <= largest
    assert 2 * largest <= saveable + predict.free_pages(snapshot)
    assert 0 <= shrink <= saveable
    assert saveable - shrink <= max(target, largest)
    if saveable <= target:
        assert shrink == 0


# --- time ---------------------------------------------------------------------------------------


def test_prediction_by_hand() -> None:
    rates = Rates(
        disk_write_bytes_per_second=100e6,
        disk_read_bytes_per_second=200e6,
        compress_bytes_per_second=1e9,
        decompress_bytes_per_second=1e9,
        shrink_bytes_per_second=50e6,
        copy_bytes_per_second=1e9,
        compression_ratio=0.5,
        fixed_hibernate_seconds=3,
        fixed_resume_seconds=6,
    )
    full = guest(free=60_000)
    image, shrink = 200_716 * PAGE, 259_601 * PAGE
    found = predict.predict(full, rates, dirty_bytes=100_000_000)
    assert found.image_bytes == image
    assert found.shrink_bytes == shrink
    assert found.compressed_bytes == image // 2
    assert found.parts_seconds == pytest.approx(
        {
            "fixed": 3.0,
            "sync": 1.0,
            "shrink": shrink / 50e6,
            # the kernel takes all but the image to force the shrinking: count - size
            "allocate": 460_317 * PAGE / 1e9,
            "write": image * 0.5 / 100e6,
        }
    )
    assert found.hibernate_seconds == pytest.approx(sum(found.parts_seconds.values()))
    assert found.resume_seconds == pytest.approx(6 + image * 0.5 / 200e6)


@pytest.mark.parametrize(
    ("ratio", "seconds"), [(0.5, 5.0), (0.01, 2.5)], ids=["the disk", "the compressor"]
)
def test_the_slower_of_disk_and_compressor_decides(ratio: float, seconds: float) -> None:
    rates = Rates(
        disk_write_bytes_per_second=100e6,
        disk_read_bytes_per_second=100e6,
        compress_bytes_per_second=400e6,
        decompress_bytes_per_second=400e6,
        compression_ratio=ratio,
    )
    assert predict.write_seconds(1e9, rates) == pytest.approx(seconds)
    assert predict.read_seconds(1e9, rates) == pytest.approx(seconds)


def test_pages_on_per_cpu_lists_are_allocated_for_and_not_copied() -> None:
    snapshot = guest()
    with_lists = replace(snapshot, zones=(DMA, replace(snapshot.zones[1], per_cpu_pages=5000)))
    rates = Rates()
    plain, found = predict.predict(snapshot, rates), predict.predict(with_lists, rates)
    assert found.saveable_bytes == plain.saveable_bytes
    assert plain.image_bytes - found.image_bytes == 5000 * PAGE


@given(snapshot=snapshots(), rates=RATES, data=st.data())
def test_more_saveable_never_takes_less_time(
    snapshot: Snapshot, rates: Rates, data: st.DataObject
) -> None:
    all_pages = predict.saveable_pages(snapshot) + predict.free_pages(snapshot)
    less, more = sorted(data.draw(st.lists(st.integers(0, all_pages), min_size=2, max_size=2)))
    short = predict.predict(snapshot, rates, saveable_bytes=less * PAGE)
    long = predict.predict(snapshot, rates, saveable_bytes=more * PAGE)
    slack = 1e-9 * long.hibernate_seconds  # of adding floats
    assert short.hibernate_seconds <= long.hibernate_seconds + slack
    assert short.resume_seconds <= long.resume_seconds
    assert short.image_bytes <= long.image_bytes
    assert short.shrink_bytes <= long.shrink_bytes


@given(snapshot=snapshots(), rates=RATES, seconds=st.floats(0, 3000))
def test_the_largest_that_fits_in_a_time_is_exact(
    snapshot: Snapshot, rates: Rates, seconds: float
) -> None:
    def takes(size_bytes: int) -> float:
        return predict.predict(
            snapshot, rates, saveable_bytes=size_bytes, dirty_bytes=0
        ).hibernate_seconds

    most = predict.largest_saveable_within(snapshot, rates, seconds)
    everything = (predict.saveable_pages(snapshot) + predict.free_pages(snapshot)) * PAGE
    if most == 0 and takes(0) > seconds:
        return  # not even an empty image
    assert takes(most) <= seconds
    assert most == everything or takes(most + PAGE) > seconds


def test_no_time_at_all_is_told_as_zero() -> None:
    assert predict.largest_saveable_within(guest(), Rates(fixed_hibernate_seconds=3), 2.9) == 0


# --- which area takes the image ---------------------------------------------------------------


def area(
    path: str,
    *,
    size: int = 4 * GIB,
    used: int = 0,
    priority: int = -2,
    device: str = "254:16",
    offset: int | None = None,
    is_zram: bool = False,
) -> SwapArea:
    return SwapArea(
        path=path,
        is_file=offset is not None,
        size_bytes=size,
        used_bytes=used,
        priority=priority,
        device=device,
        offset_pages=offset,
        is_zram=is_zram,
    )


ONE = area("/dev/vdb", device="254:16", priority=-2)
TWO = area("/dev/vdc", device="254:32", priority=5, size=GIB)
FILE_ONE = area("/swapfile", device="254:1", offset=34_816)
FILE_TWO = area("/other", device="254:1", offset=99_328, priority=7)
ZRAM = area("/dev/zram0", device="252:0", priority=100, is_zram=True)


@pytest.mark.parametrize(
    ("swaps", "device", "offset", "expected"),
    [
        ((ONE, TWO), "254:16", 0, "/dev/vdb"),  # resume= beats every priority
        ((TWO, ONE), "254:32", 0, "/dev/vdc"),
        ((FILE_TWO, FILE_ONE), "254:1", 34_816, "/swapfile"),  # two files on one file system
        ((FILE_TWO, FILE_ONE), "254:1", 99_328, "/other"),
        ((FILE_ONE,), "254:1", 1, None),  # the file was made anew since
        ((ONE,), "254:16", 77, None),  # the kernel would look for the image inside the partition
        ((ONE,), "8:2", 0, None),  # resume= names what is not in use: nothing else is tried
        ((), "254:16", 0, None),
        ((ZRAM,), "", 0, None),
        ((ZRAM,), "252:0", 0, None),
        ((ZRAM, ONE), "", 0, "/dev/vdb"),
        # resume unset: a later one is better when its priority is higher or it has more room
        ((ONE, TWO), "", 0, "/dev/vdc"),
        ((TWO, ONE), "", 0, "/dev/vdb"),
        ((TWO, replace(ONE, used_bytes=4 * GIB)), "", 0, "/dev/vdc"),
    ],
)
def test_resume_area_is_found_as_systemd_finds_it(
    swaps: tuple[SwapArea, ...], device: str, offset: int, expected: str | None
) -> None:
    snapshot = replace(
        guest(swaps=swaps),
        power=Power(available=True, resume_device=device, resume_offset_pages=offset),
    )
    found = fitting.resume_area(snapshot)
    assert (found.path if found else None) == expected


@pytest.mark.parametrize(
    ("swaps", "device", "word"),
    [
        ((), "", "there is no swap"),
        ((ZRAM,), "", "zram"),
        ((ONE,), "8:2", "8:2 is not in use as swap"),
    ],
)
def test_without_a_resume_area_nothing_fits_and_the_reason_is_named(
    swaps: tuple[SwapArea, ...], device: str, word: str
) -> None:
    snapshot = replace(guest(swaps=swaps), power=Power(available=True, resume_device=device))
    found = fitting.fit(snapshot, Limits())
    assert not found.ok
    assert not found.systemd_ok
    assert not found.kernel_ok
    assert word in found.reason


# --- both fits ----------------------------------------------------------------------------------


def machine_of(
    *, active: float, inactive: float, swaps: tuple[SwapArea, ...], total: float = 16
) -> Snapshot:
    """A machine with so many GB of anonymous memory and little else, image_size 2 GB."""
    gb = 1_000_000_000 // PAGE * PAGE
    present = int(total * gb) // PAGE
    used = int((active + inactive + 0.3) * gb) // PAGE
    return Snapshot(
        page_size=PAGE,
        memory=Memory(
            total_bytes=present * PAGE,
            free_bytes=(present - used) * PAGE,
            active_anon_bytes=int(active * gb),
            inactive_anon_bytes=int(inactive * gb),
        ),
        zones=(
            Zone(
                node=0,
                name="Normal",
                present_pages=present,
                managed_pages=present,
                spanned_pages=present,
                free_pages=present - used,
                high_pages=10_000,
            ),
        ),
        swaps=swaps,
        power=Power(available=True, image_size_bytes=2 * gb, resume_device="254:16"),
    )


GB = 1_000_000_000


def test_swapping_out_what_is_inactive_makes_systemd_refuse() -> None:
    """4 GB of swap, 3.4 GB active, 3.4 GB inactive: 3.4 <= 0.98 × 4, then 3.4 > 0.98 × 0.6."""
    snapshot = machine_of(active=3.4, inactive=3.4, swaps=(area("/dev/vdb", size=4 * GB),))
    limits = Limits()
    assert fitting.fit(snapshot, limits).systemd_ok
    after = fitting.fit(snapshot, limits, swapped_bytes=int(3.4 * GB))
    assert not after.systemd_ok
    assert "systemd would refuse" in after.reason
    assert after.systemd_has_bytes == pytest.approx(0.6 * GB, rel=1e-3)
    assert after.systemd_needs_bytes == pytest.approx(3.4 * GB / 0.98, rel=1e-3)
    # the same, looked at again after it happened
    assert not fitting.fit(swap_out(snapshot, int(3.4 * GB)), limits).systemd_ok
    budget = fitting.swap_budget_bytes(snapshot, limits)
    assert fitting.fit(swap_out(snapshot, budget), limits).systemd_ok


def test_another_device_of_higher_priority_does_no_harm() -> None:
    swaps = (
        area("/dev/vdb", size=4 * GB),
        area("/dev/vdc", device="254:32", priority=5, size=8 * GB),
    )
    snapshot = machine_of(active=3.4, inactive=3.4, swaps=swaps)
    limits = Limits()
    after = fitting.fit(snapshot, limits, swapped_bytes=int(6.8 * GB))
    assert after.ok
    assert after.systemd_has_bytes == 4 * GB
    assert after.systemd_needs_bytes == 0
    assert fitting.swap_budget_bytes(snapshot, limits) == snapshot.memory.anon_lru_bytes


def test_another_device_of_lower_priority_is_of_no_help() -> None:
    swaps = (
        area("/dev/vdb", size=4 * GB, priority=5),
        area("/dev/vdc", device="254:32", priority=-2, size=8 * GB),
    )
    snapshot = machine_of(active=3.4, inactive=3.4, swaps=swaps)
    after = fitting.fit(snapshot, Limits(), swapped_bytes=int(3.4 * GB))
    assert not after.systemd_ok


def test_what_goes_to_zram_stays_in_the_image() -> None:
    swaps = (area("/dev/vdb", size=8 * GB), replace(ZRAM, size_bytes=2 * GB))
    snapshot = machine_of(active=1.0, inactive=2.0, swaps=swaps, total=32)
    snapshot = replace(snapshot, power=replace(snapshot.power, image_size_bytes=10 * GB))
    now, after = (fitting.fit(snapshot, Limits(), swapped_bytes=amount) for amount in (0, 2 * GB))
    assert after.kernel_needs_bytes == now.kernel_needs_bytes
    assert after.kernel_has_bytes == now.kernel_has_bytes


def test_room_for_an_image_is_compressed_pages_their_map_and_the_writer() -> None:
    assert fitting.image_needs_bytes(0, 0.6) == 4 << 20
    assert fitting.image_needs_bytes(511 * PAGE, 1.0) == 511 * PAGE + PAGE + (4 << 20)


def test_an_image_that_does_not_fit_is_told_in_numbers() -> None:
    snapshot = guest(swaps=(replace(DISK, size_bytes=400 * MIB),))
    found = fitting.fit(snapshot, Limits(swap_reserve_ratio=1.07))
    assert not found.kernel_ok
    assert found.kernel_has_bytes == 400 * MIB
    assert found.kernel_needs_bytes == fitting.image_needs_bytes(170_317 * PAGE, 1.07)
    assert "/dev/vdb" in found.reason


def test_memory_that_cannot_leave_and_is_over_half_is_refused_by_the_kernel() -> None:
    full = guest(free=60_000, anon=35_000)
    found = fitting.fit(full, Limits())
    assert not found.kernel_ok
    assert "largest image" in found.reason


def test_what_is_in_flight_takes_room_twice() -> None:
    snapshot = guest()
    done = fitting.fit(snapshot, Limits(), swapped_bytes=100 * MIB)
    flying = fitting.fit(snapshot, Limits(), swapped_bytes=100 * MIB, in_flight=True)
    assert flying.kernel_has_bytes == done.kernel_has_bytes
    assert flying.kernel_needs_bytes > done.kernel_needs_bytes


# --- how much may be swapped out --------------------------------------------------------------


@settings(max_examples=300)
@given(snapshot=snapshots(roomy=True), data=st.data())
def test_every_amount_up_to_the_budget_leaves_it_accepted(
    snapshot: Snapshot, data: st.DataObject
) -> None:
    limits = Limits()
    assume(fitting.fit(snapshot, limits).ok)
    budget = fitting.swap_budget_bytes(snapshot, limits)
    amount = data.draw(st.one_of(st.just(budget), st.integers(0, budget)))
    share = data.draw(st.floats(0, 1))
    after = fitting.fit(swap_out(snapshot, amount, share), limits)
    assert after.ok, after


@given(snapshot=snapshots())
def test_the_budget_is_no_smaller_than_it_has_to_be(snapshot: Snapshot) -> None:
    limits = Limits()
    budget = fitting.swap_budget_bytes(snapshot, limits)
    disks = [each for each in snapshot.swaps if not each.is_zram]
    most = min(sum(each.free_bytes for each in disks), snapshot.memory.anon_lru_bytes)
    assert 0 <= budget <= most
    if not snapshot.power.available or fitting.resume_area(snapshot) is None:
        return
    if budget < most and not any(each.is_zram for each in snapshot.swaps):
        assert not fitting.safe_to_swap(snapshot, limits, budget + max(PAGE, budget // 50))


@given(snapshot=snapshots())
def test_nothing_is_counted_on_that_lies_behind_zram(snapshot: Snapshot) -> None:
    ahead = [each.priority for each in snapshot.swaps if each.is_zram and each.free_bytes]
    disks = sum(
        each.free_bytes
        for each in snapshot.swaps
        if not each.is_zram and each.priority > max(ahead, default=-1000)
    )
    assert fitting.swap_budget_bytes(snapshot, Limits()) <= disks


def test_without_hibernation_all_of_the_swap_may_be_used() -> None:
    snapshot = guest(free=60_000)
    off = replace(snapshot, power=Power(available=False))
    assert fitting.swap_budget_bytes(off, Limits()) == 330_000 * PAGE
    assert fitting.swap_budget_bytes(guest(swaps=()), Limits()) == 0


def test_refused_already_means_only_what_does_not_touch_the_resume_device() -> None:
    other = area("/dev/vdc", device="254:32", priority=5, size=GIB)
    small = replace(DISK, size_bytes=64 * MIB)
    limits = Limits()
    assert fitting.swap_budget_bytes(guest(free=60_000, swaps=(small,)), limits) == 0
    both = guest(free=60_000, swaps=(small, other))
    assert fitting.swap_ahead_bytes(both) == GIB
    assert fitting.swap_budget_bytes(both, limits) == GIB


@pytest.mark.parametrize(
    ("anon_mb", "safe"), [(3700, True), (3725, False)], ids=["just under", "just over"]
)
def test_aging_is_safe_while_all_anon_active_would_be_accepted(anon_mb: int, *, safe: bool) -> None:
    """0.98 × 0.95 × 4 GB are 3724 MB."""
    snapshot = machine_of(active=0, inactive=anon_mb / 1000, swaps=(area("/dev/vdb", size=4 * GB),))
    assert fitting.safe_to_age(snapshot, Limits()) is safe


def test_aging_harms_nobody_where_there_is_no_hibernation() -> None:
    snapshot = machine_of(active=5, inactive=5, swaps=(area("/dev/vdb", size=GB),))
    assert not fitting.safe_to_age(snapshot, Limits())
    assert fitting.safe_to_age(replace(snapshot, power=Power(available=False)), Limits())
    assert fitting.safe_to_age(replace(snapshot, swaps=()), Limits())


@given(snapshot=snapshots(zram=False, roomy=True), data=st.data())
def test_aging_when_safe_keeps_systemd_content(snapshot: Snapshot, data: st.DataObject) -> None:
    limits = Limits()
    assume(fitting.safe_to_age(snapshot, limits))
    memory = snapshot.memory
    turned = data.draw(st.integers(0, memory.inactive_anon_bytes))
    aged = replace(
        snapshot,
        memory=replace(
            memory,
            active_anon_bytes=memory.active_anon_bytes + turned,
            inactive_anon_bytes=memory.inactive_anon_bytes - turned,
        ),
    )
    assert fitting.fit(aged, limits).systemd_ok
    assert saveable_bytes(aged) == saveable_bytes(snapshot)
