# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command line and setting of docs/coming-from.md: it is run, on a machine that reacts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest

import hibprep.cold
import hibprep.hibernate
import hibprep.machine
import hibprep.prepare
import hibprep.session
import hibprep.swapin
from hibprep import cli
from hibprep.config import Config
from hibprep.kernel.areasaway import AreasAway
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.root import KernelRoot
from hibprep.model import Ending
from hibprep.swapin import SwapInLimits
from hibprep.swapin_report import VERSION, SwapInReport
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

TEXT = (Path(__file__).parents[2] / "docs/coming-from.md").read_text()
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
LINES = sorted({span for span in SPANS if span.startswith("hibprep ")} - {"hibprep damon"})
RESUME = "254:16"
USER, SYSTEM = "/user.slice", "/system.slice"


def build() -> FakeMachine:
    def group(path: str) -> FakeCgroup:
        return FakeCgroup(
            path,
            anon=[AnonSet(300 * MIB, idle_seconds=5000), AnonSet(100 * MIB, hot=True)],
            file_bytes=500 * MIB,
            slab_bytes=20 * MIB,
            pids=[len(path) + 100],
        )

    zram = FakeSwap(
        "/dev/zram0", GIB, priority=100, is_zram=True, device="252:0",
        backing="/dev/vdc1", backing_free_bytes=GIB,
    )  # fmt: skip
    return FakeMachine(
        total_bytes=4 * GIB,
        cgroups=[group(f"{USER}/browser.scope"), group(f"{SYSTEM}/database.service")],
        swaps=[zram, FakeSwap("/dev/vdb", 8 * GIB, priority=200, device=RESUME)],
        resume_device=RESUME,
        kernel=(7, 3),
        image_size_bytes=512 * MIB,
        bytes_per_second=500e6,
        unevictable_bytes=8 * MIB,
    )


class Session:
    """The commands on a fake machine: what they print and what they did."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake = build()
        zram, stored = self.fake.swaps[0], self.fake.cgroup(f"{USER}/browser.scope").anon[0]
        zram.used_bytes = stored.swapped_bytes = 90 * MIB
        root = FakeRoot(self.fake, directory)
        self.worker = FakeWorker(root, self.fake)
        self.asked: list[SwapInLimits] = []
        monkeypatch.setattr(hibprep.machine, "open_machine", partial(self._open, root))
        for module in (hibprep.session, hibprep.cold, hibprep.hibernate):
            monkeypatch.setattr(module, "ProcessWorker", lambda *_: self.worker)
        monkeypatch.setattr("hibprep.reclaim.base.Stop", lambda *_: FakeStop(self.fake))
        monkeypatch.setattr(hibprep.hibernate, "_sleep", self._sleep)
        monkeypatch.setattr(hibprep.hibernate, "AreasAway", partial(AreasAway, swap_on=self._on))
        monkeypatch.setattr(hibprep.swapin, "run", self._swap_in)
        self.asleep_with: list[str] = []
        self.arguments = ["--root", str(directory)]

    def _open(self, root: FakeRoot, _prefix: str, config: Config) -> hibprep.machine.Machine:
        tree = find_cgroup2(root).tree
        return hibprep.machine.Machine(root, config, FakeClock(self.fake), tree, "")

    def _sleep(self, *_: object, **__: object) -> dict[str, object]:
        self.asleep_with = [each.path for each in self.fake.swaps]
        return {"how": "logind", "slept": True, "asleep_seconds": 9.0, "reason": ""}

    def _on(self, _root: KernelRoot, path: str, priority: int) -> None:
        self.fake.swaps.append(FakeSwap(path, GIB, priority, is_zram=True, device="252:0"))

    def _swap_in(
        self, _machine: object, _record: object, limits: SwapInLimits, *_: object
    ) -> SwapInReport:
        self.asked.append(limits)
        return SwapInReport(
            version=VERSION, started="", seconds=0.0, ending=Ending.DONE, reason="",
            asked_bytes=0, read_bytes=0, file_read_bytes=0, reserve_bytes=0, processes=(),
            record="", notes=(),
        )  # fmt: skip

    def type(self, line: str) -> int:
        name, *rest = shlex.split(line.removeprefix("hibprep "))
        return int(cli.run([*self.arguments, name, *rest]))

    def anon(self, path: str) -> list[int]:
        return [each.size_bytes for each in self.fake.subtree(path)[-1].anon]

    def cache(self, path: str) -> int:
        return self.fake.subtree(path)[-1].file_bytes


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    return Session(tmp_path, monkeypatch)


def touched(line: str, path: str) -> tuple[bool, bool]:
    """Whether a line may take anonymous memory, and page cache, of that cgroup."""
    words = shlex.split(line)[1:]
    if words[0] in ("prepare", "hibernate"):
        return "--stages" not in words, True
    if words[0] != "reclaim" or ("--cgroup" in words and path not in words):
        return False, False
    kind = words[words.index("--type") + 1] if "--type" in words else "any"
    return kind in ("any", "anon"), kind in ("any", "file")


@pytest.mark.parametrize("line", LINES)
def test_every_line_runs_and_takes_nothing_that_it_does_not_name(
    session: Session, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: (session.anon(path), session.cache(path)) for path in (USER, SYSTEM)}
    assert session.type(line) in (0, 3)
    out = capsys.readouterr().out
    assert out
    if "--json" in line:
        json.loads(out)
    for path, (anon, cache) in before.items():
        takes_anon, takes_cache = touched(line, path)
        if not takes_anon:
            assert session.anon(path) == anon
        if not takes_cache:
            assert session.cache(path) == cache
        if "--colder-than" in line:
            assert session.anon(path)[1] == anon[1]


def effect(check: Callable[[Session], bool], line: str) -> object:
    assert line in LINES, f"{line} is not in the table any more"
    return pytest.param(line, check, id=line)


EFFECTS = [
    effect(
        lambda s: s.cache(USER) + s.cache(SYSTEM) <= 500 * MIB, "hibprep reclaim 512M --type file"
    ),
    effect(lambda s: s.fake.swaps[1].used_bytes >= 511 * MIB, "hibprep reclaim 512M --type anon"),
    effect(
        lambda s: sum(each.slab_bytes for each in s.fake.by_path.values()) == 0,
        "hibprep reclaim max --type slab",
    ),
    effect(
        lambda s: s.anon(USER)[0] < 20 * MIB and s.anon(SYSTEM)[0] < 20 * MIB,
        "hibprep reclaim max --type anon --colder-than 2min",
    ),
    effect(
        lambda s: s.anon(USER)[0] < 20 * MIB and s.anon(SYSTEM)[0] == 300 * MIB,
        "hibprep reclaim max --type anon --colder-than 2min --cgroup /user.slice",
    ),
    effect(
        lambda s: s.cache(USER) < 300 * MIB and s.cache(SYSTEM) == 500 * MIB,
        "hibprep reclaim 256M --cgroup /user.slice",
    ),
    effect(
        lambda s: s.fake.swaps[0].backing_free_bytes == GIB - 90 * MIB,
        "hibprep prepare --zram writeback",
    ),
    effect(
        lambda s: s.asleep_with == ["/dev/vdb"] and s.fake.swaps[-1].priority == 100,
        "hibprep hibernate --zram out",
    ),
    effect(lambda s: [each.scope.path for each in s.asked] == ["/user.slice"],
           "hibprep swapin --cgroup /user.slice"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "check"), EFFECTS)
def test_what_a_line_is_for_comes_about(
    session: Session, line: str, check: Callable[[Session], bool]
) -> None:
    assert session.type(line) in (0, 3)
    assert check(session)


def test_figures_by_cgroup_are_in_the_json(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.type("hibprep reclaim 256M --cgroup /user.slice --json")
    report = json.loads(capsys.readouterr().out)
    assert [each["path"] for each in report["cgroups"]] == [USER, f"{USER}/browser.scope"]
    above, below = report["cgroups"]
    assert above["own_bytes"] == 0
    assert below["own_bytes"] == below["freed_bytes"] == above["freed_bytes"] > 200 * MIB


def test_the_slab_of_one_cgroup_is_refused_with_the_way_round(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session.type("hibprep reclaim max --type slab --cgroup /user.slice") == 4
    assert "goes with its page cache" in capsys.readouterr().err
    slab = session.fake.cgroup(f"{USER}/browser.scope").slab_bytes
    session.type("hibprep reclaim 64M --type file --cgroup /user.slice")
    assert session.fake.cgroup(f"{USER}/browser.scope").slab_bytes < slab


def test_every_setting_that_is_named_is_there() -> None:
    sections = {name for name, field in Config.model_fields.items() if field.annotation is not None}
    named = {span.split(" ")[0] for span in SPANS if span.split(".")[0] in sections and "." in span}
    assert len(named) > 4
    for each in named:
        section, _, key = each.partition(".")
        assert key in type(getattr(Config(), section)).model_fields, each


def test_the_table_is_of_commands_that_are_there() -> None:
    context = click.Context(cli.cli)
    assert len(LINES) > 20
    for line in LINES:
        assert cli.cli.get_command(context, line.split()[1]) is not None


def test_the_configuration_with_the_settings_of_the_table_is_valid() -> None:
    config = Config.model_validate(
        {"reclaim": {"zswap": "less-cold", "zram": "out"}, "daemon": {"policy": "continuous"}}
    )
    assert config.limits().zswap == "less-cold"
    # what is configured of zram is for commands that a person gives
    assert config.limits() == replace(config.limits(), zram=Config().limits().zram)
