# SPDX-License-Identifier: LGPL-2.1-or-later
"""The console's parser, on what real kernels printed in the lab."""

from __future__ import annotations

import pytest

from bench.lab.console import ConsoleFacts, parse_console

BOOKWORM_6_1 = """\
[   32.944845] PM: hibernation: hibernation entry
[   32.976853] Freezing user space processes completed (elapsed 0.005 seconds)
[   32.989520] PM: hibernation: Preallocating image memory
[   46.149552] PM: hibernation: Allocated 174712 pages for snapshot
[   46.153575] PM: hibernation: Allocated 698848 kbytes in 13.15 seconds (53.14 MB/s)
[   46.156675] Freezing remaining freezable tasks completed (elapsed 0.002 seconds)
[   46.209937] PM: hibernation: Creating image:
[   46.211116] PM: hibernation: Need to copy 160532 pages
[   46.211116] PM: hibernation: Image created (160532 pages copied)
[   46.288252] PM: Using 1 thread(s) for compression
[   46.288530] PM: Compressing and saving image data (160846 pages)...
[   51.249925] PM: Image saving done
[   51.250017] PM: hibernation: Wrote 643384 kbytes in 4.96 seconds (129.71 MB/s)
[   51.253471] PM: S|
"""

TRIXIE_6_12 = """\
[   37.452754] PM: hibernation: hibernation entry
[   47.865222] PM: hibernation: Allocated 195002 pages for snapshot
[   47.865536] PM: hibernation: Allocated 780008 kbytes in 10.38 seconds (75.14 MB/s)
[   48.526517] PM: hibernation: Need to copy 184682 pages
[   48.999553] PM: hibernation: Image created (175757 pages copied, 8925 zero pages)
[   48.468448] PM: Using 1 thread(s) for lzo compression
[   48.469063] PM: Compressing and saving image data (176118 pages)...
[   53.551534] PM: hibernation: Wrote 704472 kbytes in 5.08 seconds (138.67 MB/s)
[   53.551706] PM: Image size after compression: 335263 kbytes
[   53.551802] PM: Image saving done
"""

TRIXIE_6_12_RESUME = """\
Begin: Running /scripts/local-premount ... [    3.824817] PM: hibernation: resume from hibernation
[    3.838525] Freezing user space processes completed (elapsed 0.001 seconds)
[    3.918047] PM: Loading and decompressing image data (176118 pages)...
[    9.028831] PM: Image loading done
[    9.029108] PM: hibernation: Read 704472 kbytes in 5.11 seconds (137.86 MB/s)
[   48.526517] PM: hibernation: Need to copy 184682 pages
[   48.857152] PM: hibernation: hibernation exit
"""


def test_linux_6_1() -> None:
    assert parse_console(BOOKWORM_6_1) == ConsoleFacts(
        allocated_pages=174712,
        allocated_bytes=698848 * 1024,
        allocate_seconds=13.15,
        need_to_copy_pages=160532,
        copied_pages=160532,
        wrote_bytes=643384 * 1024,
        write_seconds=4.96,
    )


def test_linux_6_12() -> None:
    assert parse_console(TRIXIE_6_12) == ConsoleFacts(
        allocated_pages=195002,
        allocated_bytes=780008 * 1024,
        allocate_seconds=10.38,
        need_to_copy_pages=184682,
        copied_pages=175757,
        zero_pages=8925,
        image_compressed_bytes=335263 * 1024,
        wrote_bytes=704472 * 1024,
        write_seconds=5.08,
    )


def test_reading_is_told_by_the_next_boot() -> None:
    facts = parse_console(TRIXIE_6_12_RESUME)
    assert (facts.read_bytes, facts.read_seconds) == (704472 * 1024, 5.11)
    assert facts.wrote_bytes is None


def test_of_two_hibernations_the_last_counts() -> None:
    assert parse_console(TRIXIE_6_12 + BOOKWORM_6_1).wrote_bytes == 643384 * 1024


def test_merging_keeps_what_is_known() -> None:
    merged = parse_console(TRIXIE_6_12).merged(parse_console(TRIXIE_6_12_RESUME))
    assert merged.wrote_bytes == merged.read_bytes == 704472 * 1024
    assert merged.merged(ConsoleFacts(wrote_bytes=1)).wrote_bytes == 704472 * 1024


def test_carriage_returns_and_other_lines_do_no_harm() -> None:
    text = TRIXIE_6_12.replace("\n", "\r\n").replace("[   53", "systemd[1]: words\r\n[   53")
    assert parse_console(text) == parse_console(TRIXIE_6_12)


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("[  9.1] PM: hibernation: Not enough free memory", "Not enough free memory"),
        (
            "[  9.1] PM: hibernation: Image allocation is 1234 pages short",
            "Image allocation is 1234 pages short",
        ),
        ("[  9.1] PM: Cannot find swap device, try swapon -a", "Cannot find swap device"),
        ("[  9.1] PM: Not enough free swap", "Not enough free swap"),
        (
            "[ 29.1] Freezing user space processes failed after 20.003 seconds (1 tasks refusing",
            "Freezing user space processes failed after 20.003 seconds",
        ),
    ],
)
def test_failures_are_named(line: str, failure: str) -> None:
    assert failure in (parse_console(f"{line}\n").failure or "")


@pytest.mark.parametrize("text", [BOOKWORM_6_1, TRIXIE_6_12, TRIXIE_6_12_RESUME, ""])
def test_a_success_names_no_failure(text: str) -> None:
    assert parse_console(text).failure is None
