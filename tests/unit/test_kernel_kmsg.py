# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading a hibernation back from the kernel's log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hibprep.kernel.kmsg import parse_kmsg

LOG = """\
6,911,28544029,-;PM: hibernation: hibernation entry
6,912,28563572,-;Freezing user space processes completed (elapsed 0.002 seconds)
 SUBSYSTEM=power
6,915,28566792,-;PM: hibernation: Preallocating image memory
6,916,30208507,-;PM: hibernation: Allocated 59292 pages for snapshot
6,917,30209209,-;PM: hibernation: Allocated 237168 kbytes in 1.64 seconds (144.61 MB/s)
6,930,30273139,-;PM: hibernation: Creating image:
"""


def test_the_last_hibernation_counts() -> None:
    later = LOG.replace("237168", "1000").replace("1.64", "0.50")
    found = parse_kmsg(LOG + later)
    assert found is not None
    assert (found.allocated_bytes, found.allocate_seconds) == (1000 * 1024, 0.5)
    assert round(found.until_copy_seconds, 2) == 1.73


def test_a_hibernation_that_was_refused_early_is_none() -> None:
    assert parse_kmsg(LOG + "6,950,99000000,-;PM: hibernation: hibernation entry\n") is None
    assert parse_kmsg("") is None


@given(st.text() | st.text(alphabet="0123456789,;-PM:Allocatedkbytes in.seconds\n"))
def test_whatever_the_log_says_nothing_is_raised(text: str) -> None:
    parse_kmsg(text)
    parse_kmsg(LOG + text)
