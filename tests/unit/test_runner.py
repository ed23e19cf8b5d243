# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon's runs keep of the machine beside what is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from hibprep import runner
from hibprep.config import Config
from hibprep.events import RunEnded
from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.model import MACHINE, Ending
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker
from hibprep.rules import rules_for
from hibprep.runner import Result, keep_answering
from hibprep.settings_daemon import CgroupSettings
from hibprep.state import Act, Decision
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import MIB, AnonSet, FakeCgroup

DBUS = "/system.slice/dbus.service"
LOGIND = "/system.slice/systemd-logind.service"
OTHER = "/system.slice/cron.service"


@pytest.fixture
def tree() -> CgroupTree:
    """A machine with dbus-daemon and logind, and without dbus-broker."""
    cgroups = [FakeCgroup(path, anon=[AnonSet(4 * MIB)]) for path in (DBUS, LOGIND, OTHER)]
    found = find_cgroup2(FakeRoot(FakeMachine(cgroups=cgroups))).tree
    assert found is not None
    return found


def test_what_tells_of_a_key_press_stays_in_memory(tree: CgroupTree) -> None:
    found = keep_answering(CgroupSettings(cache_only=(OTHER,)), tree)
    assert found.cache_only == (OTHER, DBUS, LOGIND)
    rules = rules_for(found, MACHINE, tree, "")
    assert set(rules.anon.paths) == {OTHER, DBUS, LOGIND}
    assert rules.cache.paths == ()
    assert rules.anon.anon_bytes >= 12 * MIB


def test_the_daemons_own_unit_stays_too() -> None:
    own = "/system.slice/hibprep.service"
    fake = FakeMachine(cgroups=[FakeCgroup(own, anon=[AnonSet(8 * MIB)])])
    tree = find_cgroup2(FakeRoot(fake)).tree
    assert tree is not None
    assert keep_answering(CgroupSettings(), tree).cache_only == (own,)


@pytest.mark.parametrize("rule", ["protect", "cache_only", "cold_only", "first"])
def test_a_rule_of_the_administrator_goes_before(tree: CgroupTree, rule: str) -> None:
    found = keep_answering(CgroupSettings.model_validate({rule: (DBUS,)}), tree)
    assert found.cache_only == ((DBUS, LOGIND) if rule == "cache_only" else (LOGIND,))
    assert getattr(found, rule)[:1] == (DBUS,)


@pytest.mark.parametrize("rule", ["protect", "cache_only"])
def test_nothing_is_added_below_what_is_kept(tree: CgroupTree, rule: str) -> None:
    configured = CgroupSettings.model_validate({rule: ("/system.slice",)})
    assert keep_answering(configured, tree) == configured


# --- the process that writes to the kernel --------------------------------------------------------


def test_it_is_kept_from_round_to_round_and_ended_before_a_preparation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids: list[int | None] = []

    def work(*_: object, worker: ProcessWorker | None = None) -> Result:
        if worker is not None:
            worker.write("/proc/self/comm", "round", Stop())
        pids.append(worker.pid if worker else None)
        return Result(RunEnded(ending=Ending.DONE, reason="done"))

    monkeypatch.setattr(runner, "reclaim", work)
    reclaiming = runner.Reclaiming()
    try:
        for amount in (1 << 20, 2 << 20, None, 1 << 20):
            decision = Decision(act=Act.START, reason="a test", amount_bytes=amount)
            reclaiming("/", decision, Config(), Stop(), lambda _: None)
        first, second, none, third = pids
        assert first is not None
        assert first == second
        assert none is None
        assert third not in (None, first)
        assert not Path(f"/proc/{first}").exists()
    finally:
        reclaiming.close()
    assert not Path(f"/proc/{third}").exists()
