# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules that cgroups carry themselves: which hold, and which do not."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep import plan as planning
from hibprep.kernel.cgroup import LABEL, CgroupTree
from hibprep.kernel.root import KernelRoot
from hibprep.labels import RULES, Together, with_labels
from hibprep.model import MACHINE, Label, Rates, Target, TargetKind
from hibprep.rules import covers, rules_for
from tests.fakes.harness import Harness
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap
from tests.fakes.texts import CGROUPS

RESUME = "254:16"
DATABASE = "/system.slice/database.service"
INDEXER = "/system.slice/indexer.service"
OWN = "/user.slice/user-1000.slice/user@1000.service"


@dataclass
class Labelled:
    """A tree of names that carry labels."""

    labels: dict[str, Label] = field(default_factory=dict)

    def children(self, path: str) -> list[str]:
        depth = 1 if path == "/" else path.count("/") + 1
        steps = [each.split("/") for each in self.labels if covers(path, each)]
        return sorted({"/".join(words[: depth + 1]) for words in steps if len(words) > depth})

    def label(self, path: str) -> Label | None:
        return self.labels.get(path)


def by_root(text: str) -> Label:
    return Label(text=text, by_root=True)


def by_a_user(text: str) -> Label:
    return Label(text=text, by_root=False)


def words_of(names: Together, tree: Labelled) -> tuple[Together, list[str]]:
    together, notes = with_labels(names, tree)
    return together, [note.text for note in notes]


def test_a_label_of_roots_is_a_rule() -> None:
    tree = Labelled({f"/{rule}.slice/a.service": by_root(rule) for rule in RULES})
    together, told = words_of(Together(), tree)
    for rule in RULES:
        assert getattr(together, rule) == (f"/{rule}.slice/a.service",)
        assert f"labelled /{rule}.slice/a.service: {rule} holds" in told


def test_of_a_users_only_first_is_heeded() -> None:
    for rule in RULES:
        together, told = words_of(Together(), Labelled({OWN: by_a_user(rule)}))
        assert together == (Together(first=(OWN,)) if rule == "first" else Together())
        assert (told == [f"labelled {OWN}: first holds"]) is (rule == "first")


def test_the_configuration_goes_before_a_label_and_that_is_told() -> None:
    tree = Labelled({DATABASE: by_root("protect"), INDEXER: by_root("first")})
    together, told = words_of(Together(cold_only=(f"{DATABASE}/",)), tree)
    assert together == Together(cold_only=(f"{DATABASE}/",), first=(INDEXER,))
    assert told[0] == (
        f"labelled {DATABASE}: protect is passed over: the configuration has it in "
        "cgroups.cold_only"
    )


@pytest.mark.parametrize("text", ["", "Protect", "protect,first", "\x1b[2J" * 50])
def test_what_is_no_rule_is_told_and_cannot_garble_a_terminal(text: str) -> None:
    together, told = words_of(Together(), Labelled({DATABASE: by_root(text)}))
    assert together == Together()
    assert "is no rule" in told[0]
    assert told[0].isprintable()
    assert len(told[0]) < 300


def test_many_labels_are_one_note() -> None:
    tree = Labelled({f"{OWN}/{n}.scope": by_a_user("protect") for n in range(1000)})
    _, told = words_of(Together(), tree)
    assert len(told) == 1
    assert "and 997 more: protect is passed over" in told[0]


@st.composite
def trees(draw: st.DrawFn) -> Labelled:
    paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(lambda p: "/" + "/".join(p))
    labels = st.builds(Label, text=st.sampled_from([*RULES, "x"]), by_root=st.booleans())
    return Labelled(draw(st.dictionaries(paths, labels, max_size=8)))


@given(trees(), trees())
def test_no_user_can_keep_anything_in_memory(tree: Labelled, configured: Labelled) -> None:
    names = Together(
        **{
            rule: tuple(path for path, label in configured.labels.items() if label.text == rule)
            for rule in RULES
        }
    )
    together, notes = with_labels(names, tree)
    of_root = Labelled({path: label for path, label in tree.labels.items() if label.by_root})
    expected, _ = with_labels(names, of_root)
    for rule in ("protect", "cache_only", "cold_only"):
        assert set(getattr(together, rule)) == set(getattr(expected, rule))
        # nothing that is configured is ever lost, and it comes first
        assert getattr(together, rule)[: len(getattr(names, rule))] == getattr(names, rule)
    told = " ".join(note.text for note in notes)
    assert len(tree.labels) > 3 or all(path in told for path in tree.labels)


def machine() -> FakeMachine:
    def group(path: str) -> FakeCgroup:
        return FakeCgroup(path, anon=[AnonSet(200 * MIB, idle_seconds=5000)], file_bytes=100 * MIB)

    return FakeMachine(
        total_bytes=4 * GIB,
        cgroups=[group(path) for path in (DATABASE, INDEXER, OWN)],
        swaps=[FakeSwap("/dev/vdb", 8 * GIB, device=RESUME)],
        resume_device=RESUME,
    )


def prepared(fake: FakeMachine) -> FakeMachine:
    harness = Harness(fake)
    rules = rules_for(Together(), MACHINE, harness.tree, "")
    snapshot = replace(harness.snapshot(), rules=rules)
    plan = planning.make(
        snapshot, harness.capabilities(), Target(TargetKind.MIN), harness.limits, Rates()
    )
    harness.run(plan)
    return fake


def test_a_run_keeps_what_is_labelled_and_nothing_that_a_user_labelled() -> None:
    fake = machine()
    fake.delegated = (OWN,)
    for path in (DATABASE, OWN):
        fake.attributes[f"{CGROUPS}{path}", LABEL] = "protect"
    prepared(fake)
    assert fake.current_bytes(DATABASE) == 300 * MIB
    assert fake.current_bytes(OWN) < 10 * MIB
    assert fake.current_bytes(INDEXER) < 10 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others: needs root")
@pytest.mark.parametrize(
    ("uid", "mode", "trusted"),
    [(0, 0o755, True), (1000, 0o755, False), (0, 0o775, False), (0, 0o757, False)],
)
def test_who_may_have_written_it_is_read_from_the_folder(
    tmp_path: Path, uid: int, mode: int, *, trusted: bool
) -> None:
    folder = tmp_path / "sys/fs/cgroup/a.slice"
    folder.mkdir(parents=True)
    try:
        os.setxattr(folder, LABEL, b"protect\n")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error.strerror}")
    os.chown(folder, uid, uid)
    folder.chmod(mode)
    tree = CgroupTree(KernelRoot(tmp_path), "/sys/fs/cgroup")
    assert tree.label("/a.slice") == Label(text="protect", by_root=trusted)
    assert tree.label("/b.slice") is None
    assert tree.label("/") is None
