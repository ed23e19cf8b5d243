# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon's runs keep of the machine beside what is configured."""

from __future__ import annotations

import pytest

from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.model import MACHINE
from hibprep.rules import rules_for
from hibprep.runner import keep_answering
from hibprep.settings_daemon import CgroupSettings
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


@pytest.mark.parametrize("rule", ["protect", "cache_only", "cold_only", "first"])
def test_a_rule_of_the_administrator_goes_before(tree: CgroupTree, rule: str) -> None:
    found = keep_answering(CgroupSettings.model_validate({rule: (DBUS,)}), tree)
    assert found.cache_only == ((DBUS, LOGIND) if rule == "cache_only" else (LOGIND,))
    assert getattr(found, rule)[:1] == (DBUS,)


@pytest.mark.parametrize("rule", ["protect", "cache_only"])
def test_nothing_is_added_below_what_is_kept(tree: CgroupTree, rule: str) -> None:
    configured = CgroupSettings.model_validate({rule: ("/system.slice",)})
    assert keep_answering(configured, tree) == configured
