# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is there room: by systemd's check and by the kernel's, now, for every device, and after a
preparation. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hibprep.checks.finding import GRUB, MAKE_SWAP, Finding, Severity, figures
from hibprep.facts import UNCOMPRESSED
from hibprep.fitting import WORST_RATIO, resume_area
from hibprep.page import size
from hibprep.predict import target_pages

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts


def findings(facts: CheckFacts) -> Iterator[Finding]:
    """Both fits, in numbers."""
    if resume_area(facts.snapshot) is None:
        return  # said already
    yield from _now(facts)
    yield from _others(facts)
    yield from _prepared(facts)
    yield from _video(facts)


def _now(facts: CheckFacts) -> Iterator[Finding]:
    fit = facts.fit
    area = resume_area(facts.snapshot)
    if area is None:
        return
    bypass = facts.systemd.bypass
    if not fit.systemd_ok:
        text = (
            f"systemd would refuse now: {size(fit.systemd_needs_bytes)} needed on "
            f"{fit.resume_path} for active anonymous memory, {size(fit.systemd_has_bytes)} free"
        )
        if bypass is not None:
            text += f"; but {bypass.path} switches that check off"
        yield Finding(
            Severity.ERROR if bypass is None else Severity.INFO,
            "systemd-fit",
            text,
            _remedy(facts, "hibprep prepare --stages sync,cache,slab,cold-anon,anon")
            + _short_by(fit.systemd_needs_bytes - fit.systemd_has_bytes),
        )
    if not fit.kernel_ok:
        yield Finding(
            Severity.ERROR,
            "too-small",
            f"{fit.reason} ({size(fit.kernel_needs_bytes)} needed on {fit.resume_path}, "
            f"{size(fit.kernel_has_bytes)} free)",
            _remedy(facts, "hibprep prepare makes the image smaller")
            + _short_by(fit.kernel_needs_bytes - fit.kernel_has_bytes),
        )
    uncompressed = [word for word in UNCOMPRESSED if word in facts.command_line]
    if uncompressed:
        yield Finding(
            Severity.INFO,
            "uncompressed",
            f"{uncompressed[0]} on the kernel command line: the image is counted, and written, "
            "as it is",
            f"take {uncompressed[0]} away {GRUB}",
        )
    image = target_pages(facts.snapshot) * facts.snapshot.page_size
    if fit.ok and area.size_bytes < image * WORST_RATIO:
        yield Finding(
            Severity.WARNING,
            "small",
            f"{area.path} has {size(area.size_bytes)}; an image of {size(image)} that does not "
            f"compress needs {size(image * WORST_RATIO)}",
            f"echo {int(area.size_bytes / WORST_RATIO)} > /sys/power/image_size; or more swap: "
            + MAKE_SWAP,
        )
    elif fit.ok:
        yield Finding(
            Severity.OK,
            "fits",
            f"systemd and the kernel would accept now, on {fit.resume_path}: {figures(fit)}",
        )


def _remedy(facts: CheckFacts, prepare: str) -> str:
    """Preparing is no cure where the plan says that it will not do."""
    plan = facts.plan
    if plan is not None and not plan.fit_after.ok:
        return f"more swap: {MAKE_SWAP}"
    return f"{prepare}; or more swap: {MAKE_SWAP}"


def _short_by(missing_bytes: int) -> str:
    return f" ({size(missing_bytes)} more are needed as it is now)" if missing_bytes > 0 else ""


def _others(facts: CheckFacts) -> Iterator[Finding]:
    """The areas beside the resume device: what would be, were it one of them."""
    area = resume_area(facts.snapshot)
    for other, fit in facts.fits:
        if area is None or other.path == area.path:
            continue
        verdict = "would do as well" if fit.ok else f"would not do: {fit.reason}"
        yield Finding(
            Severity.INFO,
            "other-device",
            f"{other.path} is not the resume device; it {verdict} ({figures(fit)})",
        )


def _prepared(facts: CheckFacts) -> Iterator[Finding]:
    plan = facts.plan
    if plan is None:
        return
    fit = plan.fit_after
    image = f"an image of {size(plan.after.image_bytes)} instead of {size(plan.before.image_bytes)}"
    if fit.ok:
        yield Finding(
            Severity.OK if facts.fit.ok else Severity.INFO,
            "prepared",
            f"after a preparation both would accept: {image}; {figures(fit)}",
            "" if facts.fit.ok else "hibprep prepare, or at once: hibprep hibernate",
        )
    else:
        yield Finding(
            Severity.WARNING,
            "prepared",
            f"after a preparation: {image}; {fit.reason} ({figures(fit)})",
            MAKE_SWAP,
        )


def _video(facts: CheckFacts) -> Iterator[Finding]:
    if facts.video_bytes:
        yield Finding(
            Severity.INFO,
            "video-memory",
            f"{size(facts.video_bytes)} of video memory are moved to RAM when a hibernation "
            "begins, and are not in these figures",
            "close what draws much (games, browsers) if it ends with too little memory",
        )
