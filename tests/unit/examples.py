# SPDX-License-Identifier: LGPL-2.1-or-later
"""A plan, a report and a snapshot with figures that are easy to follow."""

from __future__ import annotations

from hibprep.model import (
    MACHINE,
    AgeShare,
    BackendName,
    Capability,
    Ending,
    Fit,
    Freed,
    Holder,
    Kind,
    KnobChange,
    Limit,
    Memory,
    Plan,
    Power,
    Prediction,
    Rates,
    Report,
    Snapshot,
    Stage,
    Step,
    StepReport,
    SwapArea,
    Target,
    TargetKind,
    Zone,
)

MIB = 1 << 20
GIB = 1 << 30

DISK = SwapArea(
    path="/dev/vda2",
    is_file=False,
    size_bytes=8 * GIB,
    used_bytes=0,
    priority=-2,
    device="254:2",
    encrypted=True,
)
ZRAM = SwapArea(
    path="/dev/zram0",
    is_file=False,
    size_bytes=4 * GIB,
    used_bytes=0,
    priority=100,
    device="252:0",
    is_zram=True,
)
POWER = Power(
    available=True,
    image_size_bytes=3 * GIB,
    reserved_size_bytes=MIB,
    resume_device="254:2",
    disk_modes=("platform", "shutdown"),
    disk_mode="platform",
    lockdown="none",
)
SNAPSHOT = Snapshot(
    page_size=4096,
    memory=Memory(
        total_bytes=8 * GIB,
        free_bytes=2 * GIB,
        active_anon_bytes=2 * GIB,
        inactive_anon_bytes=GIB,
        active_file_bytes=GIB,
        inactive_file_bytes=GIB,
    ),
    zones=(
        Zone(
            node=0,
            name="Normal",
            present_pages=2 * GIB // 1024,
            managed_pages=2 * GIB // 1024,
            spanned_pages=2 * GIB // 1024,
            free_pages=GIB // 2048,
            high_pages=10_000,
        ),
    ),
    swaps=(DISK,),
    power=POWER,
    lru_gen_enabled=True,
    cpus=4,
)
FIT = Fit(
    resume_path="/dev/vda2",
    systemd_ok=True,
    systemd_needs_bytes=2 * GIB,
    systemd_has_bytes=8 * GIB,
    kernel_ok=True,
    kernel_needs_bytes=2 * GIB,
    kernel_has_bytes=8 * GIB,
    reason="fits",
)
UNFIT = Fit(
    resume_path="/dev/vda2",
    systemd_ok=True,
    systemd_needs_bytes=GIB,
    systemd_has_bytes=2 * GIB,
    kernel_ok=False,
    kernel_needs_bytes=3 * GIB,
    kernel_has_bytes=2 * GIB,
    reason="the image may not fit in what is left of /dev/vda2",
)
BEFORE = Prediction(
    saveable_bytes=6 * GIB,
    image_bytes=3 * GIB,
    compressed_bytes=3 * GIB // 2,
    shrink_bytes=3 * GIB,
    hibernate_seconds=81.5,
    resume_seconds=22.0,
    parts_seconds={"shrink": 61.0, "write": 16.0},
)
AFTER = Prediction(
    saveable_bytes=2 * GIB,
    image_bytes=2 * GIB,
    compressed_bytes=GIB,
    shrink_bytes=0,
    hibernate_seconds=14.0,
    resume_seconds=16.5,
)
PLAN = Plan(
    target=Target(TargetKind.SIZE, size_bytes=2 * GIB),
    goal_bytes=2 * GIB,
    steps=(
        Step(
            stage=Stage.CACHE,
            kind=Kind.FILE,
            scope=MACHINE,
            amount_bytes=2 * GIB,
            backend=BackendName.MEMCG,
            reason="clean page cache costs nothing to drop",
        ),
        Step(
            stage=Stage.COLD_ANON,
            kind=Kind.ANON,
            scope=MACHINE,
            amount_bytes=2 * GIB,
            backend=BackendName.LRUGEN,
            min_age_seconds=10,
            reason="not used for 10 s",
        ),
    ),
    before=BEFORE,
    after=AFTER,
    fit_before=FIT,
    fit_after=FIT,
    limits=(Limit(name="swap", text="this much is kept free for the image", bytes=1200 * MIB),),
    irreducible={"page tables": 20 * MIB, "unevictable and mlocked": 100 * MIB, "huge pages": 0},
    swap_budget_bytes=6 * GIB,
    knobs=(
        KnobChange(path="/proc/sys/vm/swappiness", value="200", reason="anonymous memory alone"),
    ),
    ages=(
        AgeShare(
            at_least_seconds=3600.0,
            anon_goes_bytes=1536 * MIB,
            anon_stays_bytes=0,
            file_goes_bytes=GIB,
            file_stays_bytes=0,
            hibernate_seconds=0.0,
            resume_seconds=0.0,
        ),
        AgeShare(
            at_least_seconds=247.5,
            anon_goes_bytes=512 * MIB,
            anon_stays_bytes=100 * MIB,
            file_goes_bytes=GIB,
            file_stays_bytes=200 * MIB,
            hibernate_seconds=3.1,
            resume_seconds=1.6,
        ),
        AgeShare(
            at_least_seconds=0.0,
            anon_goes_bytes=0,
            anon_stays_bytes=900 * MIB,
            file_goes_bytes=0,
            file_stays_bytes=300 * MIB,
            hibernate_seconds=12.6,
            resume_seconds=6.3,
        ),
    ),
    holders=(
        Holder(name="qemu-system-x86", pid=812, locked_bytes=64 * MIB, huge_bytes=MIB),
        Holder(name="/machine.slice", locked_bytes=70 * MIB),
    ),
    rates=Rates(
        disk_write_bytes_per_second=2e8,
        sources={"disk_write_bytes_per_second": "configured", "compression_ratio": "default"},
    ),
)
REPORT = Report(
    version=1,
    started="2026-11-21T10:00:00+00:00",
    seconds=12.5,
    command="prepare",
    target=PLAN.target,
    ending=Ending.DONE,
    reason="saveable memory is at the goal",
    freed=Freed(
        file_bytes=2 * GIB,
        anon_bytes=2 * GIB,
        slab_bytes=10 * MIB,
        free_gain_bytes=4 * GIB,
        swapped_out_bytes=2 * GIB,
    ),
    steps=(
        StepReport(
            stage=Stage.CACHE,
            scope="whole machine",
            backend="memcg",
            asked_bytes=2 * GIB,
            freed=Freed(file_bytes=2 * GIB, slab_bytes=10 * MIB),
            seconds=1.5,
            chunks=15,
            ending=Ending.DONE,
            reason="its amount is reached",
        ),
        StepReport(
            stage=Stage.COLD_ANON,
            scope="cgroup /odd[red]name",
            backend="lrugen",
            asked_bytes=2 * GIB,
            freed=Freed(anon_bytes=2 * GIB, swapped_out_bytes=2 * GIB),
            seconds=11.0,
            chunks=110,
            ending=Ending.EXHAUSTED,
            reason="nothing colder is left",
        ),
    ),
    before=BEFORE,
    after=AFTER,
    fit_before=FIT,
    fit_after=UNFIT,
    limits=PLAN.limits,
    irreducible=PLAN.irreducible,
    knobs=("vm.swappiness was set to 200: anonymous memory alone",),
    goal_bytes=2 * GIB,
    notes=("a note",),
)
CAPABILITIES = (
    Capability(BackendName.MEMCG, True, "memory.reclaim", "5.19", frozenset({"swappiness"})),  # noqa: FBT003
    Capability(BackendName.LRUGEN, False, "no debugfs: mount it", "6.1"),  # noqa: FBT003
)
