# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules that cgroups carry themselves: the extended attribute `user.hibprep.rule` of a cgroup's
folder, with the name of a rule. Pure: the tree is looked at through `Tree`.

For what makes cgroups (service managers, container runtimes) and knows what is in them. A user may
write attributes of the cgroups that were delegated to them, and would so keep memory in everybody's
image: of those only `first` is heeded, which gives memory up. systemd-oomd draws the line there as
well (systemd.resource-control(5), ManagedOOMPreference=).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from hibprep.model import Label, Limit

RULES = ("protect", "cache_only", "cold_only", "first")
_ANYBODYS = frozenset({"first"})
_MOST_NAMES = 3
_SHOWN = 32  # of a text that somebody else wrote


class Names(Protocol):
    """The cgroups that rules are for."""

    @property
    def protect(self) -> tuple[str, ...]:
        """Nothing is taken from these."""

    @property
    def cache_only(self) -> tuple[str, ...]:
        """Nothing of these goes to swap."""

    @property
    def cold_only(self) -> tuple[str, ...]:
        """Of these only what is cold goes to swap."""

    @property
    def first(self) -> tuple[str, ...]:
        """These are reclaimed before all others."""


class Tree(Protocol):
    """Where labels are looked for."""

    def children(self, path: str) -> list[str]:
        """The cgroups directly below; none when it is gone."""

    def label(self, path: str) -> Label | None:
        """What it carries."""


@dataclass(frozen=True, slots=True)
class Together:
    """What is configured, and behind it what cgroups carry."""

    protect: tuple[str, ...] = ()
    cache_only: tuple[str, ...] = ()
    cold_only: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


def with_labels(names: Names, tree: Tree) -> tuple[Together, tuple[Limit, ...]]:
    """The rules of the configuration and of the tree together, and in words which labels hold and
    which do not. For a cgroup that the configuration names, the configuration holds."""
    paths = {rule: list(getattr(names, rule)) for rule in RULES}
    configured = {_plain(path): rule for rule in RULES for path in paths[rule]}
    told: dict[str, list[str]] = {}
    for path, label in _labels(tree):
        rule = label.text
        if rule not in RULES:
            words = f"{_shown(rule)} is no rule (one of {', '.join(RULES)} is)"
        elif path in configured:
            words = f"{rule} is passed over: the configuration has it in cgroups.{configured[path]}"
        elif not label.by_root and rule not in _ANYBODYS:
            words = f"{rule} is passed over: others than root may write it there"
        else:
            paths[rule].append(path)
            words = f"{rule} holds"
        told.setdefault(words, []).append(path)
    together = Together(**{rule: tuple(found) for rule, found in paths.items()})
    return together, tuple(_note(words, found) for words, found in told.items())


def _note(words: str, paths: list[str]) -> Limit:
    shown = ", ".join(path if path.isprintable() else repr(path) for path in paths[:_MOST_NAMES])
    if len(paths) > _MOST_NAMES:
        shown += f" and {len(paths) - _MOST_NAMES} more"
    return Limit(name="label", text=f"labelled {shown}: {words}")


def _labels(tree: Tree) -> Iterator[tuple[str, Label]]:
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        label = tree.label(path) if path != "/" else None
        if label is not None:
            yield path, label
        waiting += reversed(tree.children(path))


def _plain(path: str) -> str:
    return "/" + "/".join(step for step in path.split("/") if step not in ("", "."))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
