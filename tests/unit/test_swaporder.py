# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.swaporder import Candidate, Part, Rank, Turn, is_in, rank, turns

ANNA = "/user.slice/user-1000.slice"
CGROUPS = st.sampled_from(
    ["", "/", "/system.slice/a.service", "/user.slice", f"{ANNA}/session-2.scope",
     "/user.slice/user-10001.slice", "/machine.slice/vm", "/init.scope"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"{ANNA}/user@1000.service/app.slice/a.scope", Rank.FOREGROUND),
        (ANNA, Rank.FOREGROUND),
        ("/user.slice/user-10001.slice/session-3.scope", Rank.USER),  # no prefix of a name
        ("/user.slice", Rank.USER),
        ("/user.slicer/x", Rank.OTHER),
        ("/machine.slice/vm.scope", Rank.OTHER),
        ("/system.slice/ssh.service", Rank.SYSTEM),
        ("/init.scope", Rank.SYSTEM),
        ("/", Rank.SYSTEM),
        ("", Rank.SYSTEM),
    ],
)
def test_whose_it_is(cgroup: str, expected: Rank) -> None:
    assert rank(cgroup, [ANNA]) is expected


def test_everything_is_in_the_root() -> None:
    assert is_in("/a/b", "/")


def test_the_order() -> None:
    found = turns(
        [
            Candidate(pid=1, cgroup="/system.slice/a", swapped_bytes=5, looks=(0, 1), files=True),
            Candidate(pid=2, cgroup=f"{ANNA}/x", swapped_bytes=9, looks=(1,), files=True),
            Candidate(pid=3, cgroup=f"{ANNA}/y", swapped_bytes=7),
            Candidate(pid=4, cgroup="/user.slice/user-7.slice", swapped_bytes=1),
            Candidate(pid=5, cgroup=f"{ANNA}/z"),
        ],
        [ANNA],
    )
    assert found == [
        Turn(1, Part.WORKING_SET, 0),  # what survived longest, whose ever it is
        Turn(2, Part.FILES),
        Turn(1, Part.FILES),
        Turn(2, Part.WORKING_SET, 1),
        Turn(1, Part.WORKING_SET, 1),
        Turn(3, Part.REST),  # the small before the large
        Turn(2, Part.REST),
        Turn(4, Part.REST),
        Turn(1, Part.REST),
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            Candidate,
            pid=st.integers(1, 10**6),
            cgroup=CGROUPS,
            swapped_bytes=st.integers(0, 1 << 40),
            looks=st.lists(st.integers(0, 9), unique=True).map(tuple),
            files=st.booleans(),
        ),
        unique_by=lambda each: each.pid,
        max_size=12,
    )
)
def test_every_part_has_its_turn_once_and_the_rest_is_last(candidates: list[Candidate]) -> None:
    found = turns(candidates, [ANNA])
    assert len(set(found)) == len(found)
    expected = {
        Turn(each.pid, Part.WORKING_SET, look) for each in candidates for look in each.looks
    }
    expected |= {Turn(each.pid, Part.FILES) for each in candidates if each.files}
    expected |= {Turn(each.pid, Part.REST) for each in candidates if each.swapped_bytes}
    assert set(found) == expected
    parts = [turn.part for turn in found]
    if Part.REST in parts:
        assert set(parts[parts.index(Part.REST) :]) == {Part.REST}
    looks = [turn.look for turn in found if turn.part is Part.WORKING_SET]
    assert looks == sorted(looks)
    by_pid = {each.pid: each for each in candidates}
    rest = [by_pid[turn.pid] for turn in found if turn.part is Part.REST]
    keys = [(rank(each.cgroup, [ANNA]), each.swapped_bytes) for each in rest]
    assert keys == sorted(keys)
    assert turns(reversed(candidates), [ANNA]) == found
