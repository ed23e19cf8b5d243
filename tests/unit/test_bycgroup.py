# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became less in every cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep import prepare as engine
from hibprep import session
from hibprep.bycgroup import Level, freed_by_cgroup
from hibprep.config import Config
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.machine import Machine
from hibprep.model import CgroupFreed, Kind, Scope, ScopeKind
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap


def test_a_cgroup_has_all_below_it_and_its_own_apart() -> None:
    before = {
        "/": Level(anon=9 * MIB, file=9 * MIB, slab=9 * MIB),
        "/a": Level(anon=8 * MIB, file=4 * MIB, slab=3 * MIB, swap=MIB),
        "/a/b": Level(anon=5 * MIB, file=4 * MIB),
        "/ended": Level(anon=GIB),
        "/still": Level(file=GIB),
    }
    after = {
        "/": Level(anon=5 * MIB, file=7 * MIB, slab=8 * MIB, swap=4 * MIB),
        "/a": Level(anon=4 * MIB, file=2 * MIB, slab=2 * MIB, swap=5 * MIB),
        "/a/b": Level(anon=2 * MIB, file=5 * MIB, swap=3 * MIB),
        "/begun": Level(anon=GIB),
        "/still": Level(file=GIB - 4096),
    }
    assert freed_by_cgroup(before, after) == (
        CgroupFreed(
            path="/", anon_bytes=4 * MIB, file_bytes=2 * MIB, slab_bytes=MIB,
            swapped_out_bytes=4 * MIB, own_bytes=0,
        ),
        CgroupFreed(
            path="/a", anon_bytes=4 * MIB, file_bytes=2 * MIB, slab_bytes=MIB,
            swapped_out_bytes=4 * MIB, own_bytes=4 * MIB,
        ),
        CgroupFreed(
            path="/a/b", anon_bytes=3 * MIB, swapped_out_bytes=3 * MIB, own_bytes=3 * MIB
        ),
    )  # fmt: skip


LEVELS = st.builds(Level, *[st.integers(0, 50).map(lambda n: n * MIB)] * 4)
TREES = st.dictionaries(st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/b"]), LEVELS)


@given(TREES, TREES)
def test_figures_are_never_negative_and_nobody_is_made_up(
    before: dict[str, Level], after: dict[str, Level]
) -> None:
    found = freed_by_cgroup(before, after)
    assert {each.path for each in found} <= before.keys() & after.keys()
    for each in found:
        assert 0 <= each.own_bytes <= each.freed_bytes
        assert each.swapped_out_bytes >= 0
    assert freed_by_cgroup(before, before) == ()


def test_a_reclaim_tells_of_every_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def group(path: str) -> FakeCgroup:
        return FakeCgroup(path, anon=[AnonSet(100 * MIB)], file_bytes=80 * MIB, slab_bytes=8 * MIB)

    fake = FakeMachine(
        total_bytes=2 * GIB,
        cgroups=[group("/a.slice/one.service"), group("/a.slice/two.service"), group("/b.slice")],
        swaps=[FakeSwap("/dev/vdb", 4 * GIB)],
    )
    root = FakeRoot(fake, tmp_path)
    worker = FakeWorker(root, fake)
    monkeypatch.setattr(session, "ProcessWorker", lambda *_: worker)
    tree = find_cgroup2(root).tree
    machine = Machine(root, Config(), FakeClock(fake), tree, "")
    report = engine.reclaim(
        machine, 100 * MIB, Scope(ScopeKind.CGROUP, "/a.slice"), Kind.FILE, stop=FakeStop(fake)
    )
    found = {each.path: each for each in report.cgroups}
    assert "/b.slice" not in found
    above = found["/a.slice"]
    below = [
        found[f"/a.slice/{name}.service"]
        for name in ("one", "two")
        if f"/a.slice/{name}.service" in found
    ]
    assert above.file_bytes == sum(each.file_bytes for each in below)
    assert above.slab_bytes == sum(each.slab_bytes for each in below) > 0
    assert above.own_bytes == 0
    assert above.freed_bytes >= 100 * MIB - 4096
