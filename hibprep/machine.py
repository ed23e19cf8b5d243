# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine that is worked on: found, put in order after a killed run, looked at."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from hibprep.clock import Clock, SystemClock
from hibprep.config import Config
from hibprep.errors import NotPossibleError
from hibprep.history import History
from hibprep.kernel import damon_sysfs
from hibprep.kernel.areasaway import AreasAway
from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.kernel.cgrouplook import read_zswap
from hibprep.kernel.knobs import KnobJournal
from hibprep.kernel.locked import read_holders
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.snapshot import read_snapshot
from hibprep.model import (
    Scope,
    ScopeKind,
    Snapshot,
)
from hibprep.reclaim.worker import ProcessWorker
from hibprep.rules import rules_for, scope_memory


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that is worked on, and how: its root, its cgroup tree, the configuration."""

    root: KernelRoot
    config: Config
    clock: Clock
    tree: CgroupTree | None
    tree_reason: str
    recovered: tuple[str, ...] = ()  # what an earlier, killed run had left changed
    worker: ProcessWorker | None = None  # one that is kept from run to run

    @property
    def history(self) -> History:
        """Where its reports are kept."""
        return History(str(self.root.prefix), self.config.history.keep, self.clock)


def open_machine(root_prefix: str, config: Config) -> Machine:
    """Find out what there is; as root, first put back what a killed run left changed."""
    root = KernelRoot(root_prefix)
    recovered: tuple[str, ...] = ()
    if not root.is_real or os.geteuid() == 0:
        # DAMON_STAT cannot be switched on again while a kdamond of ours still runs
        recovered = (*damon_sysfs.recover(root), *KnobJournal(root).recover())
        recovered += tuple(AreasAway(root).recover())
    found = find_cgroup2(root)
    return Machine(root, config, SystemClock(), found.tree, found.reason, recovered)


def snapshot_of(machine: Machine, scope: Scope) -> Snapshot:
    """The snapshot that a plan for `scope` is made from."""
    snapshot = read_snapshot(machine.root, machine.tree)
    if scope.kind is not ScopeKind.CGROUP:
        return snapshot
    if machine.tree is None:
        raise NotPossibleError(f"cgroup {scope.path}", machine.tree_reason)
    stat = machine.tree.stat(machine.tree.validate(scope.path))
    return replace(snapshot, scope=scope_memory(stat))


def ruled_snapshot_of(machine: Machine, scope: Scope, *, name_holders: bool = False) -> Snapshot:
    """The same, with the rules for cgroups as they stand now.

    With `name_holders` also who holds what stays, for a person to read: that looks at every process
    and takes locks of their page tables, which nobody may wait for while users are frozen.
    """
    rules = rules_for(machine.config.cgroups, scope, machine.tree, machine.tree_reason)
    snapshot = snapshot_of(machine, scope)
    holders = read_holders(machine.root, machine.tree, snapshot.memory) if name_holders else ()
    zswap = read_zswap(machine.tree) if machine.tree and snapshot.zswap_enabled else ()
    return replace(snapshot, rules=rules, holders=holders, zswap_cgroups=zswap)


def validated_scope(machine: Machine, path: str) -> Scope:
    """The scope for what a person called a cgroup; raises when there is none of that name."""
    if machine.tree is None:
        raise NotPossibleError(f"cgroup {path}", machine.tree_reason)
    return Scope(ScopeKind.CGROUP, machine.tree.validate(path))
