# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules for cgroups: from what is configured, what cgroups carry (`hibprep.labels`) and what is
in the tree to what every stage leaves alone. Pure: the tree is looked at through `Tree`.

What a rule keeps is never named to the kernel, neither itself nor a cgroup above it: reclaim is
asked of the largest cgroups beside it (`reach`). Nothing is changed for that, so there is nothing
to put back. Raising memory.min for the time of a run would not do: with the multi-gen LRU,
kernels 6.11 to 6.18 at least compute the protection for reclaim from the root in kswapd alone
(lru_gen_age_node() in mm/vmscan.c; read there, not tried), so that memory.reclaim on the root
passes over a value that was just written; and what is left over at an ancestor goes to the siblings
(memory_recursiveprot).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from hibprep.errors import HibprepError
from hibprep.labels import Names, with_labels
from hibprep.model import (
    First,
    Kept,
    Label,
    Limit,
    Limits,
    Rules,
    Scope,
    ScopeKind,
    ScopeMemory,
    Snapshot,
)

_WORTH_TELLING_BYTES = 16 << 20
_MOST_NAMES = 3


class Tree(Protocol):
    """The cgroup v2 tree; `hibprep.kernel.cgroup.CgroupTree` is one."""

    def exists(self, path: str) -> bool:
        """Whether there is such a cgroup now."""

    def children(self, path: str) -> list[str]:
        """The cgroups directly below; none when it is gone."""

    def validate(self, path: str) -> str:
        """The path itself, when it has memory of its own; else raises HibprepError."""

    def stat(self, path: str) -> dict[str, int]:
        """Its memory.stat; raises HibprepError."""

    def label(self, path: str) -> Label | None:
        """The rule that it carries itself."""


def covers(path: str, other: str) -> bool:
    """Whether `other` is `path` or below it."""
    return other.rstrip("/") == path.rstrip("/") or other.startswith(path.rstrip("/") + "/")


def is_spared(path: str, spared: Iterable[str]) -> bool:
    """Whether a rule keeps `path`: it is one of `spared`, or below one."""
    return any(covers(each, path) for each in spared)


def reach(scope: str, spared: Iterable[str], tree: Tree) -> list[str]:
    """The largest cgroups at or below `scope` that have none of `spared` in them: together all that
    may be asked for, but for what is charged to the cgroups above `spared` themselves."""
    there = [each for each in spared if tree.exists(each)]
    found, waiting = [], [scope]
    while waiting:
        path = waiting.pop()
        if is_spared(path, there):
            continue
        if any(covers(path, each) for each in there):
            waiting += reversed(tree.children(path))
        else:
            found.append(path)
    return found


def scope_memory(stat: Mapping[str, int]) -> ScopeMemory:
    """What a memory.stat tells of a cgroup with all below it. What is mlocked is on none of these
    lists, and so not in what is counted of the whole machine either."""
    return ScopeMemory(
        anon_bytes=stat.get("active_anon", 0) + stat.get("inactive_anon", 0),
        file_bytes=stat.get("active_file", 0) + stat.get("inactive_file", 0),
        mapped_bytes=stat.get("file_mapped", 0),
        dirty_bytes=stat.get("file_dirty", 0) + stat.get("file_writeback", 0),
        slab_reclaimable_bytes=stat.get("slab_reclaimable", 0),
    )


def parts(snapshot: Snapshot, limits: Limits) -> list[tuple[Snapshot, Limits]]:
    """What plans are made for, in their order: the cgroups that come first, then the whole."""
    inside = [
        (
            replace(snapshot, scope=first.memory, rules=first.rules),
            replace(limits, scope=Scope(ScopeKind.CGROUP, first.path)),
        )
        for first in snapshot.rules.first
    ]
    return [*inside, (snapshot, limits)]


def rules_for(names: Names, scope: Scope, tree: Tree | None, absent_reason: str) -> Rules:
    """The rules as they stand for `scope`. A cgroup that was asked for by name goes before the
    rules for it and for those above it; never raises for what is or is not in the tree."""
    if scope.kind is ScopeKind.PROCESS:
        return Rules()
    if tree is None:
        if not _any(names):
            return Rules()
        words = "the rules for cgroups need cgroup v2 with the memory controller, and are not kept"
        return Rules(notes=(Limit(name="rules", text=f"{words}: {absent_reason}"),))
    together, notes = with_labels(names, tree)
    if not _any(together):
        return Rules(notes=notes)
    return _Reading(together, scope, tree, notes).rules()


def _any(names: Names) -> bool:
    return bool(names.protect or names.cache_only or names.cold_only or names.first)


class _Reading:
    """One look at the tree."""

    def __init__(self, names: Names, scope: Scope, tree: Tree, notes: Iterable[Limit]) -> None:
        self._names, self._scope, self._tree = names, scope, tree
        self._notes = list(notes)

    def rules(self) -> Rules:
        protect = self._keepers("protect", self._names.protect)
        cache_only = self._keepers("cache_only", self._names.cache_only)
        cold_only = self._keepers("cold_only", self._names.cold_only)
        cold = _outermost([*protect, *cache_only])
        anon = _outermost([*cold, *cold_only])
        self._tell("protect", "nothing is taken from {}", protect, with_cache=True)
        self._tell("cache_only", "nothing of {} goes to swap", cache_only)
        self._tell("cold_only", "of {} only what is cold goes to swap", cold_only)
        rules = self._inside(self._scope.path, _outermost(protect), cold, anon)
        self._tell_of_the_unnamed(rules)
        first = tuple(
            First(
                path=path,
                memory=self._memory(path),
                rules=self._inside(path, _outermost(protect), cold, anon),
            )
            for path in self._firsts(protect)
        )
        return replace(rules, first=first, notes=tuple(self._notes))

    def _inside(
        self, path: str, protect: tuple[str, ...], cold: tuple[str, ...], anon: tuple[str, ...]
    ) -> Rules:
        """What is kept within `path`."""
        return Rules(
            cache=self._kept(path, protect),
            cold=self._kept(path, cold, by_memcg=True),
            anon=self._kept(path, anon),
        )

    def _kept(self, scope: str, spared: tuple[str, ...], *, by_memcg: bool = False) -> Kept:
        """What is out of reach in `scope`. A back-end that names every memcg by itself
        (`by_memcg`) gets at what is charged to those above the spared ones, too."""
        spared = tuple(each for each in spared if covers(scope, each) or covers(each, scope))
        if not any(self._tree.exists(each) for each in spared):
            return Kept(paths=spared)
        if by_memcg:
            inner = (scope if covers(each, scope) else each for each in spared)
            out = self._sum(dict.fromkeys(inner))
        else:
            whole = self._memory(scope)
            within = self._sum(reach(scope, spared, self._tree))
            out = ScopeMemory(
                anon_bytes=max(0, whole.anon_bytes - within.anon_bytes),
                file_bytes=max(0, whole.file_bytes - within.file_bytes),
                mapped_bytes=max(0, whole.mapped_bytes - within.mapped_bytes),
            )
        return Kept(
            paths=spared,
            anon_bytes=out.anon_bytes,
            file_bytes=out.file_bytes,
            mapped_bytes=out.mapped_bytes,
        )

    def _keepers(self, rule: str, names: Iterable[str]) -> list[str]:
        """The cgroups that a rule keeps something of, those included that are not there yet."""
        found = []
        for name in names:
            path = self._normal(rule, name)
            if path is None:
                continue
            if self._scope.kind is ScopeKind.CGROUP and covers(path, self._scope.path):
                self._note(
                    "asked-by-name",
                    f"{self._scope.path} was asked for by name, which goes before cgroups.{rule} "
                    f"= {path}",
                )
            elif covers(self._scope.path, path):
                holder = self._holder(rule, path)
                if holder is not None:
                    found.append(holder)
        return found

    def _holder(self, rule: str, path: str) -> str | None:
        """The cgroup that the memory of `path` is charged to: itself, or, where it has no memory
        controller, the next one above that has."""
        try:
            return self._tree.validate(path)
        except HibprepError as error:
            self._note(f"rule-{rule}", f"cgroups.{rule}: {error}")
        if not self._tree.exists(path):
            return path
        above = path
        while above.count("/") > 1:
            above = above.rpartition("/")[0]
            if covers(above, self._scope.path):
                return None
            try:
                self._tree.validate(above)
            except HibprepError:
                continue
            self._note(f"rule-{rule}", f"cgroups.{rule} holds for {above}, which has its memory")
            return above
        return None

    def _firsts(self, protect: Iterable[str]) -> list[str]:
        """The cgroups that come first and are there, in the configured order."""
        found: dict[str, None] = {}
        for name in self._names.first:
            path = self._normal("first", name)
            if path is None or covers(path, self._scope.path) or not covers(self._scope.path, path):
                continue
            if is_spared(path, protect):
                self._note("rule-first", f"{path} is protected: it cannot be reclaimed first")
                continue
            try:
                found[self._tree.validate(path)] = None
            except HibprepError as error:
                self._note("rule-first", f"cgroups.first: {error}")
        return list(found)

    def _normal(self, rule: str, name: str) -> str | None:
        """The path with one slash where there are several; None when it is none."""
        steps = [step for step in name.split("/") if step not in ("", ".")]
        if ".." in steps or not name.isprintable():
            self._note(f"rule-{rule}", f"cgroups.{rule}: {name!r} is no path of a cgroup")
            return None
        return "/" + "/".join(steps)

    def _tell(
        self, rule: str, words: str, paths: Iterable[str], *, with_cache: bool = False
    ) -> None:
        there = [path for path in _outermost(paths) if self._tree.exists(path)]
        if not there:
            return
        memory = self._sum(there)
        shown = ", ".join(there[:_MOST_NAMES])
        if len(there) > _MOST_NAMES:
            shown += f" and {len(there) - _MOST_NAMES} more"
        amount = memory.anon_bytes + (memory.file_bytes if with_cache else 0)
        self._note(f"rule-{rule}", f"cgroups.{rule}: {words.format(shown)}", amount)

    def _tell_of_the_unnamed(self, rules: Rules) -> None:
        """What is kept besides what the rules name."""
        file_bytes = rules.cache.file_bytes - self._sum(self._there(rules.cache.paths)).file_bytes
        anon_bytes = rules.anon.anon_bytes - self._sum(self._there(rules.anon.paths)).anon_bytes
        amount = max(0, file_bytes) + max(0, anon_bytes)
        if amount >= _WORTH_TELLING_BYTES:
            self._note(
                "rule-beside",
                "what is charged to the cgroups above those that rules keep, or to ended ones "
                "beside them, stays too: the kernel cannot be asked for it alone",
                amount,
            )

    def _there(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if self._tree.exists(path)]

    def _memory(self, path: str) -> ScopeMemory:
        try:
            return scope_memory(self._tree.stat(path))
        except HibprepError:  # it ended meanwhile
            return scope_memory({})

    def _sum(self, paths: Iterable[str]) -> ScopeMemory:
        found = [self._memory(path) for path in paths]
        return ScopeMemory(
            anon_bytes=sum(each.anon_bytes for each in found),
            file_bytes=sum(each.file_bytes for each in found),
            mapped_bytes=sum(each.mapped_bytes for each in found),
        )

    def _note(self, name: str, text: str, amount_bytes: int = 0) -> None:
        self._notes.append(Limit(name=name, text=text, bytes=amount_bytes))


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Without those that are below another."""
    unique = sorted(set(paths))
    return tuple(
        path for path in unique if not any(covers(each, path) for each in unique if each != path)
    )
