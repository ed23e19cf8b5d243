# SPDX-License-Identifier: LGPL-2.1-or-later
"""The examples of the document "Reclaim Cold Page", each by the command that docs/coldpgs.md has
for it, on a fake kernel that reacts as the document shows; and what can go wrong."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import hibprep.coldpgs
import hibprep.machine
import hibprep.session
from hibprep import cli
from hibprep.errors import ExitCode
from tests.fakes.coldpgs import KIDLED, SYSFS, ColdKernel, ColdSet
from tests.fakes.harness import FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, PAGE, FakeCgroup, FakeSwap
from tests.fakes.texts import CGROUPS

TEST = f"{CGROUPS}/test"
# 128 MiB as the document finds it: in two buckets for the cache, a little more for anon
CACHE = [ColdSet("cfei", 64 * MIB, 1), ColdSet("cfei", 64 * MIB, 2)]
ANON = [ColdSet("csea", 134311936, 2)]
DOCUMENT = Path(__file__).parents[2] / "docs/coldpgs.md"
Capture = pytest.CaptureFixture[str]


def machine(**changes: object) -> FakeMachine:
    settings: dict[str, object] = {
        "total_bytes": 4 * GIB,
        "kernel": (5, 10),
        "cgroups": [FakeCgroup("/test"), FakeCgroup("/test/below"), FakeCgroup("/other")],
        "swaps": [FakeSwap("/dev/nvme1n1", 1048572 << 10, priority=-2)],
        "lru_gen": None,
        "hibernation": False,  # servers; what it would forbid is tested elsewhere
    }
    return FakeMachine(**(settings | changes))  # type: ignore[arg-type]


def copies(*sets: ColdSet) -> list[ColdSet]:
    return [ColdSet(e.row, e.size_bytes, e.age, e.cgroup, ended=e.ended) for e in sets]


class Box:
    """The machine, and the commands that are run on it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp_path, self.monkeypatch = tmp_path, monkeypatch

    def put(self, *sets: ColdSet, on: FakeMachine | None = None, **changes: object) -> ColdKernel:
        self.machine = on or machine()
        self.kernel = ColdKernel(self.machine, copies(*sets), **changes)  # type: ignore[arg-type]
        self.open()
        return self.kernel

    def open(self) -> None:
        root = FakeRoot(self.machine, self.tmp_path)
        self.worker = FakeWorker(root, self.machine)
        for module in (hibprep.session, hibprep.coldpgs):
            self.monkeypatch.setattr(module, "ProcessWorker", lambda *_: self.worker)
        self.monkeypatch.setattr(hibprep.machine, "KernelRoot", lambda *_: root)

    def run(self, line: str) -> int:
        """A documented command: it is in the document word for word."""
        assert line in DOCUMENT.read_text()
        return self.run_undocumented(line)

    def run_undocumented(self, line: str) -> int:
        words = shlex.split(line)
        assert words.pop(0) == "hibprep"
        return cli.run([*words, "--root", str(self.tmp_path)])

    def row(self, name: str, directory: str = TEST) -> list[int]:
        text = self.machine.read_file(f"{directory}/memory.idle_page_stats")
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        return [int(word) for word in line.split()[1:]]

    def stats(self, directory: str = TEST) -> dict[str, int]:
        """In pages, as the document has them."""
        found = {}
        for line in self.machine.read_file(f"{directory}/memory.coldpgs.stats").splitlines():
            name, _, figure = line.partition(":")
            words = figure.split()
            found[name.strip()] = (
                int(words[0]) * (1 if len(words) == 1 else 1024) // (1 if len(words) == 1 else PAGE)
            )
        return {name: value for name, value in found.items() if value}

    def setting(self, path: str) -> str:
        return self.machine.read_file(path).strip()

    def written(self, path: str) -> list[str]:
        return [text.strip() for each, text in self.machine.writes if each == path]

    @property
    def swap_used_kib(self) -> int:
        return int(self.machine.read_file("/proc/swaps").splitlines()[1].split()[3])


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, monkeypatch)


def nothing_is_left_changed(box: Box) -> None:
    assert box.setting(f"{SYSFS}/mode") == "0x0"
    assert box.setting(f"{TEST}/memory.coldpgs.threshold") == "0"
    assert box.setting(f"{TEST}/memory.coldpgs.size") == "0"
    assert not list((box.tmp_path / "run/hibprep").glob("knobs-*"))


# --- the document's examples ----------------------------------------------------------------------


def test_before_all_examples_kidled_is_switched_on(box: Box) -> None:
    box.put(*CACHE, period=0)
    assert box.run("hibprep coldpgs set --period 15s --hierarchy") == ExitCode.DONE
    assert box.setting(f"{KIDLED}/scan_period_in_seconds") == "15"
    assert box.setting(f"{KIDLED}/use_hierarchy") == "1"
    assert box.row("cfei") == [0] * 8
    box.machine.advance(31)
    assert box.row("cfei") == [0, 128 * MIB, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("in_pages", [True, False])
def test_1_cache_of_the_machine(box: Box, capsys: Capture, *, in_pages: bool) -> None:
    box.put(*CACHE, pages_in_statistics=in_pages)
    assert box.row("cfei") == [67108864, 67108864, 0, 0, 0, 0, 0, 0]
    line = "hibprep reclaim max --type file --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("cfei") == [0] * 8
    assert box.stats().get("pagecache dropped") == 32768
    assert "anon swap out" not in box.stats()
    assert capsys.readouterr().out == "reclaimed 134217728 bytes (128.0 MiB)\n"
    assert box.written(f"{SYSFS}/mode") == ["0x1", "0x0"]
    # what is left when all of it fits into a chunk goes by the file for all cgroups
    assert box.written(f"{SYSFS}/threshold") == ["1"]
    nothing_is_left_changed(box)


def test_2_locked_cache_of_the_machine(box: Box) -> None:
    box.put(ColdSet("cfui", 134217728, 2))
    assert box.row("cfui") == [0, 134217728, 0, 0, 0, 0, 0, 0]
    line = "hibprep reclaim max --type file --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("cfui") == [0, 134217728, 0, 0, 0, 0, 0, 0]  # not without the flag
    assert box.run("hibprep coldpgs set --mlocked") == ExitCode.DONE
    assert box.setting(f"{SYSFS}/flags") == "0x1"
    assert box.run(line) == ExitCode.DONE
    assert box.row("cfui") == [0] * 8
    assert box.stats()["pagecache dropped"] == 32768
    nothing_is_left_changed(box)


def test_3_cache_of_a_cgroup(box: Box) -> None:
    box.put(*CACHE, ColdSet("cfei", 64 * MIB, 2, "/other"))
    line = "hibprep reclaim 128M --cgroup /test --type file --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("cfei") == [0] * 8
    assert box.stats()["pagecache dropped"] == 32768
    assert box.row("cfei", f"{CGROUPS}/other")[1] == 64 * MIB
    assert box.written(f"{SYSFS}/threshold") == []
    assert set(box.written(f"{TEST}/memory.coldpgs.threshold")) == {"1"}
    sizes = [int(text) for text in box.written(f"{TEST}/memory.coldpgs.size")]
    assert sum(sizes) == 128 * MIB
    nothing_is_left_changed(box)


def test_4_locked_cache_of_a_cgroup(box: Box) -> None:
    box.put(ColdSet("cfui", 134217728, 2))
    assert box.run("hibprep coldpgs set --mlocked") == ExitCode.DONE
    line = "hibprep reclaim 128M --cgroup /test --type file --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("cfui") == [0] * 8
    assert box.stats()["pagecache dropped"] == 32768
    nothing_is_left_changed(box)


def test_5_anon_of_the_machine(box: Box) -> None:
    box.put(*ANON)
    assert box.row("csea") == [0, 134311936, 0, 0, 0, 0, 0, 0]
    line = "hibprep reclaim max --type anon --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("csea") == [0] * 8
    assert box.stats() == {"anon swap out": 32791, "Total anon swap out": 32791}
    assert box.swap_used_kib == 134311936 >> 10
    assert box.written(f"{SYSFS}/mode") == ["0x2", "0x0"]
    nothing_is_left_changed(box)


def test_6_locked_anon_of_the_machine(box: Box) -> None:
    box.put(ColdSet("csui", 134311936, 2))
    assert box.run("hibprep coldpgs set --mlocked") == ExitCode.DONE
    line = "hibprep reclaim max --type anon --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("csui") == [0] * 8
    assert box.stats()["anon swap out"] == 32791
    nothing_is_left_changed(box)


def test_7_anon_of_a_cgroup(box: Box) -> None:
    box.put(*ANON, ColdSet("csea", 64 * MIB, 2, "/other"))
    line = "hibprep reclaim max --cgroup /test --type anon --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("csea") == [0] * 8
    assert box.stats()["anon swap out"] == 32791
    assert box.row("csea", f"{CGROUPS}/other")[1] == 64 * MIB
    assert box.written(f"{SYSFS}/threshold") == []
    nothing_is_left_changed(box)


def test_8_locked_anon_of_a_cgroup(box: Box) -> None:
    box.put(ColdSet("csui", 134311936, 2))
    assert box.run("hibprep coldpgs set --mlocked") == ExitCode.DONE
    line = "hibprep reclaim max --cgroup /test --type anon --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("csui") == [0] * 8
    assert box.stats()["anon swap out"] == 32791
    nothing_is_left_changed(box)


def test_9_the_less_cold_to_zswap_and_the_colder_to_the_disk(box: Box) -> None:
    box.put(ColdSet("csea", 68186112, 1), ColdSet("csea", 65118208, 2))
    assert box.row("csea") == [68186112, 65118208, 0, 0, 0, 0, 0, 0]
    assert box.run("hibprep coldpgs set --zswap --threshold-nonrot 1") == ExitCode.DONE
    assert box.setting("/sys/module/zswap/parameters/enabled") == "Y"
    line = "hibprep reclaim max --cgroup /test --type anon --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("csea") == [0] * 8
    assert box.stats()["anon zswap out"] == 68186112 // PAGE
    assert box.stats()["anon swap out"] == 65118208 // PAGE
    # switched off for other back-ends, it would have defeated the split
    assert box.setting("/sys/module/zswap/parameters/enabled") == "Y"
    assert box.setting(f"{SYSFS}/threshold_nonrot") == "1"
    nothing_is_left_changed(box)


def test_10_memory_comes_back(box: Box, capsys: Capture) -> None:
    box.put(ColdSet("csea", 134287360, 2))
    line = "hibprep reclaim max --cgroup /test --type anon --colder-than 15s --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("csea") == [0] * 8
    assert box.run("hibprep coldpgs swapin --cgroup /test") == ExitCode.DONE
    assert box.row("csea") == [0, 134287360, 0, 0, 0, 0, 0, 0]
    assert box.swap_used_kib == 0
    assert "swapin: 128.1 MiB read of 128.1 MiB in swap; done" in capsys.readouterr().out
    assert (f"{TEST}/memory.coldpgs.swapin", "swapin\n") in box.worker.requests


def test_11_slab(box: Box) -> None:
    kernel = box.put(ColdSet("slab", 100 * MIB, 130, "/"), slab=True)
    assert box.row("slab", CGROUPS)[6] == 100 * MIB
    assert box.run("hibprep coldpgs set --scan both") == ExitCode.DONE
    assert kernel.scan_target == 3
    line = "hibprep reclaim max --type slab --colder-than 30min --backend coldpgs"
    assert box.run(line) == ExitCode.DONE
    assert box.row("slab", CGROUPS) == [0] * 8
    assert box.stats(CGROUPS)["slab drop"] == 100 * MIB // PAGE
    assert box.written(f"{SYSFS}/threshold") == ["120"]


# --- what can go wrong ----------------------------------------------------------------------------


def refused(box: Box, capsys: Capture, line: str) -> str:
    assert box.run_undocumented(line) == ExitCode.IMPOSSIBLE
    assert not any("coldpgs" in path for path, _ in box.machine.writes)
    return capsys.readouterr().err


LINE = "hibprep reclaim max --type anon --backend coldpgs"


def test_refused_on_other_kernels(box: Box, capsys: Capture) -> None:
    box.machine = machine()
    box.open()
    assert "OpenAnolis" in refused(box, capsys, f"{LINE} --colder-than 15s")
    assert "OpenAnolis" in refused(box, capsys, "hibprep coldpgs show")
    assert "OpenAnolis" in refused(box, capsys, "hibprep coldpgs set --period 15s")
    assert "OpenAnolis" in refused(box, capsys, "hibprep coldpgs swapin")


def test_refused_when_kidled_is_off(box: Box, capsys: Capture) -> None:
    box.put(*ANON, period=0)
    assert "kidled is off" in refused(box, capsys, f"{LINE} --colder-than 15s")


@pytest.mark.parametrize("age", ["--colder-than 14s", ""])
def test_refused_when_the_age_is_under_a_period(box: Box, capsys: Capture, age: str) -> None:
    box.put(*ANON)
    assert "one scan period of kidled on (15 s)" in refused(box, capsys, f"{LINE} {age}")


def test_an_age_that_kidled_cannot_count_to(box: Box, capsys: Capture) -> None:
    box.put(*ANON)
    code = box.run_undocumented(f"{LINE} --colder-than 2h")
    assert code == ExitCode.PARTLY
    assert "over 255 scan periods" in capsys.readouterr().err
    assert box.row("csea")[1] == 134311936


def test_slab_that_kidled_does_not_look_at(box: Box, capsys: Capture) -> None:
    box.put(ColdSet("slab", 100 * MIB, 130, "/"), slab=True)
    line = "hibprep reclaim max --type slab --colder-than 30min --backend coldpgs"
    assert box.run_undocumented(line) == ExitCode.PARTLY
    assert "does not look at memory of kind slab" in capsys.readouterr().err


def test_the_later_driver_refuses_locked_pages(box: Box, capsys: Capture) -> None:
    box.put(ColdSet("csei", MIB, 2), version=(3, 0, 0))
    assert box.run_undocumented("hibprep coldpgs set --mlocked") == ExitCode.DONE
    assert box.run_undocumented(f"{LINE} --colder-than 15s") == ExitCode.PARTLY
    assert "cannot reclaim mlocked pages" in capsys.readouterr().err


def test_only_what_is_old_enough_goes(box: Box) -> None:
    box.put(ColdSet("csea", 64 * MIB, 1), ColdSet("csei", 32 * MIB, 4), ColdSet("csei", MIB, 2))
    assert box.run_undocumented(f"{LINE} --colder-than 50s") == ExitCode.DONE
    assert box.row("csea") == [64 * MIB, 0, 0, 0, 0, 0, 0, 0]
    assert box.row("csei")[1] == MIB


def test_a_cgroup_means_what_is_below_it_too(box: Box) -> None:
    box.put(*ANON, ColdSet("csei", 8 * MIB, 5, "/test/below"), ColdSet("csei", MIB, 5, "/other"))
    assert box.run_undocumented(f"{LINE} --cgroup /test --colder-than 15s") == ExitCode.DONE
    assert box.row("csei", f"{TEST}/below") == [0] * 8
    assert box.row("csei", f"{CGROUPS}/other")[2] == MIB


@pytest.mark.parametrize("scope", ["", "--cgroup /test"])
def test_where_figures_have_those_below_in_them(box: Box, scope: str) -> None:
    """The earliest kidled with use_hierarchy, as the document's examples have it."""
    kernel = box.put(*ANON, ColdSet("csei", 64 * MIB, 5, "/test/below"))
    kernel.use_hierarchy = 1
    assert box.row("csei", CGROUPS)[2] == 64 * MIB
    assert box.run_undocumented(f"{LINE} {scope} --colder-than 15s") == ExitCode.DONE
    assert [each.size_bytes for each in kernel.sets] == [0, 0]


def test_what_an_ended_cgroup_left_goes_too(box: Box) -> None:
    kernel = box.put(*ANON, ColdSet("csei", 8 * MIB, 5, "/other", ended=True))
    assert box.run_undocumented(f"{LINE} --colder-than 15s") == ExitCode.DONE
    assert [each.size_bytes for each in kernel.sets] == [0, 0]


def test_an_amount_is_not_exceeded(box: Box) -> None:
    box.put(*ANON)
    line = "hibprep reclaim 16M --type anon --colder-than 15s --backend coldpgs"
    assert box.run_undocumented(line) == ExitCode.DONE
    assert box.row("csea")[1] == 134311936 - 16 * MIB
    assert box.written(f"{SYSFS}/threshold") == []


def test_memory_min_is_heeded(box: Box) -> None:
    kept = machine(cgroups=[FakeCgroup("/test", min_bytes=100 * MIB)])
    box.put(ColdSet("csei", 128 * MIB, 5), on=kept)
    assert box.run_undocumented(f"{LINE} --colder-than 15s") == ExitCode.DONE
    assert box.row("csei")[2] == 100 * MIB
    assert box.written(f"{SYSFS}/threshold") == []


def test_rules_for_cgroups_are_heeded(box: Box) -> None:
    box.put(*ANON, ColdSet("csei", 8 * MIB, 5, "/other"))
    config = box.tmp_path / "hibprep.toml"
    config.write_text('[cgroups]\nprotect = ["/other"]\n')
    line = f"{LINE} --colder-than 15s --config {config}"
    assert box.run_undocumented(line) == ExitCode.DONE
    assert box.row("csea") == [0] * 8
    assert box.row("csei", f"{CGROUPS}/other")[2] == 8 * MIB
    assert box.written(f"{SYSFS}/threshold") == []


def test_ended_cgroups_below_what_rules_keep_are_kept_too(box: Box) -> None:
    kernel = box.put(
        ColdSet("csei", 8 * MIB, 5, "/test"),
        ColdSet("csei", 8 * MIB, 5, "/test/below", ended=True),
        ColdSet("csei", 8 * MIB, 5, "/other"),
        slab=True,
    )
    config = box.tmp_path / "hibprep.toml"
    config.write_text('[cgroups]\nprotect = ["/test/below"]\n')
    line = f"{LINE} --colder-than 15s --config {config}"
    assert box.run_undocumented(line) == ExitCode.DONE
    assert [each.size_bytes for each in kernel.sets] == [8 * MIB, 8 * MIB, 0]


def test_flags_in_which_nobody_said_anything_are_set_and_put_back(box: Box) -> None:
    box.put(*ANON, flags=0x2A)
    assert box.run_undocumented(f"{LINE} --colder-than 15s") == ExitCode.DONE
    assert box.row("csea") == [0] * 8
    assert box.written(f"{TEST}/memory.coldpgs.flags") == [hex(2 << 32 | 0x2A), "0x2a"]


def test_flags_in_which_somebody_did_stand(box: Box, capsys: Capture) -> None:
    box.put(*ANON, flags=1 << 32 | 0x2A)
    assert box.run_undocumented(f"{LINE} --colder-than 15s --json") == ExitCode.DONE
    report = json.loads(capsys.readouterr().out)
    assert "allows no anon memory" in report["steps"][0]["reason"]
    assert box.row("csea")[1] == 134311936
    assert box.written(f"{TEST}/memory.coldpgs.flags") == []


def test_what_somebody_left_in_the_files_is_not_let_loose(box: Box) -> None:
    kernel = box.put(ColdSet("csei", 128 * MIB, 5))
    kernel.controls["/test"].size = 1 << 40
    line = "hibprep reclaim 8M --cgroup /test --type anon --colder-than 15s --backend coldpgs"
    assert box.run_undocumented(line) == ExitCode.DONE
    assert box.row("csei")[2] == 120 * MIB


def test_a_killed_run_is_put_back_by_the_next(box: Box) -> None:
    """Killed by the worst moment: between the threshold and the size."""
    box.put(*ANON, flags=0)

    def die(path: str, _text: str) -> None:
        if path.endswith("memory.coldpgs.size"):
            raise KeyboardInterrupt

    box.worker.before_write = die
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hibprep.kernel.knobs.KnobJournal.restore_all", lambda _self: [])
        patch.setattr("hibprep.kernel.knobs.os.getpid", lambda: (1 << 22) + 1)  # nobody's
        line = "hibprep reclaim 8M --cgroup /test --type anon --colder-than 15s --backend coldpgs"
        assert box.run_undocumented(line) == ExitCode.INTERRUPTED
    assert box.setting(f"{TEST}/memory.coldpgs.threshold") == "1"
    assert box.setting(f"{SYSFS}/mode") == "0x2"
    assert box.run_undocumented("hibprep coldpgs show") == ExitCode.DONE
    assert box.setting(f"{TEST}/memory.coldpgs.flags") == "0x0"
    nothing_is_left_changed(box)


def test_cgroup_v1(box: Box) -> None:
    box.put(*CACHE, on=machine(cgroup_version=1))
    directory = f"{CGROUPS}/memory/test"
    line = "hibprep reclaim max --type file --colder-than 15s --backend coldpgs"
    assert box.run_undocumented(line) == ExitCode.DONE
    assert box.row("cfei", directory) == [0] * 8
    assert box.written(f"{directory}/memory.coldpgs.size")


def test_it_goes_before_the_generations_for_what_is_cold(box: Box, capsys: Capture) -> None:
    box.put(ColdSet("csei", GIB, 5), ColdSet("csea", GIB, 0), period=5)
    assert box.run_undocumented("hibprep plan --target min --json") == ExitCode.DONE
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert {step["stage"]: step["backend"] for step in steps}["cold-anon"] == "coldpgs"


def test_a_preparation_leaves_nothing_in_zswap(box: Box) -> None:
    kernel = box.put(ColdSet("csei", GIB // 2, 5), period=5, on=machine(zswap=True))
    kernel.nonrot = 200
    box.run_undocumented("hibprep prepare --target min --stages cold-anon")
    assert box.stats()["anon swap out"] == GIB // 2 // PAGE
    assert "anon zswap out" not in box.stats()
    assert kernel.nonrot == 200


# --- hibprep coldpgs ------------------------------------------------------------------------------


def test_show(box: Box, capsys: Capture, golden: Callable[[str, str], None]) -> None:
    kernel = box.put(*CACHE, *ANON, ColdSet("cfei", 8 * MIB, 5, "/other"))
    kernel.mode = 1
    kernel.reclaim_all(5)
    assert box.run("hibprep coldpgs show") == ExitCode.DONE
    golden("coldpgs.txt", capsys.readouterr().out)
    assert box.run_undocumented("hibprep coldpgs show --json") == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["takes"], found["mlocked"], found["period_seconds"]) == (["cache"], False, 15)
    ages = next(each for each in found["cgroups"] if each["path"] == "/test")
    assert ages["edges_seconds"] == [15, 30, 75, 225, 450, 900, 1800, 3600]
    assert ages["bytes_by_kind"]["anon"][1] == 134311936


def test_buckets(box: Box) -> None:
    box.put(*CACHE)
    assert box.run("hibprep coldpgs set --buckets 1,4,16 --cgroup /test") == ExitCode.DONE
    assert box.row("cfei") == [128 * MIB, 0, 0]
    # what is in the bucket that the age falls into may be old enough, and is tried
    line = "hibprep reclaim max --type file --colder-than 30s --backend coldpgs"
    assert box.run_undocumented(line) == ExitCode.DONE
    assert box.row("cfei") == [64 * MIB, 0, 0]
    assert box.run_undocumented("hibprep coldpgs set --buckets '' --cgroup /test") == ExitCode.DONE
    text = box.machine.read_file(f"{TEST}/memory.idle_page_stats")
    assert "no valid bucket available" in text
    assert box.run_undocumented(line) == ExitCode.DONE


def test_what_is_so_already_is_not_written(box: Box) -> None:
    """A period that is written clears every age."""
    box.put(*CACHE)
    assert box.run_undocumented("hibprep coldpgs set --period 15s --batch 64") == ExitCode.DONE
    assert box.written(f"{KIDLED}/scan_period_in_seconds") == []
    assert box.setting(f"{SYSFS}/batch") == "64"
    assert box.row("cfei")[0] == 64 * MIB


def test_off(box: Box) -> None:
    box.put(*CACHE)
    assert box.run("hibprep coldpgs off") == ExitCode.DONE
    assert box.setting(f"{KIDLED}/scan_period_in_seconds") == "0"


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--period 0",
        "--period 1.5s",
        "--period 2d",
        "--batch 0",
        "--threshold-nonrot 256",
        "--buckets 2,1",
        "--buckets 1,x",
        "--buckets 1,256",
        "--buckets 1,2,3,4,5,6,7,8,9",
        "--cgroup /test",
        "--period 30s --batch -1",
        "--buckets 1 --cgroup /absent",
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_written(box: Box, options: str) -> None:
    box.put(*CACHE)
    assert box.run_undocumented(f"hibprep coldpgs set {options}") == ExitCode.USAGE
    assert box.machine.writes == []


def test_all_or_nothing(box: Box, capsys: Capture) -> None:
    kernel = box.put(*CACHE, period=0, on=machine(lru_gen=True))
    line = "hibprep coldpgs set --scan both --period 15s --batch 64"
    kernel.later = True
    kernel._list_files()
    assert box.run_undocumented(line) == ExitCode.IMPOSSIBLE
    assert "kidled and the multi-gen LRU exclude each other" in capsys.readouterr().err
    assert (kernel.scan_target, kernel.batch, kernel.period) == (1, 32, 0)


def test_swapin_that_would_not_fit(box: Box, capsys: Capture) -> None:
    full = machine(total_bytes=GIB, kernel_bytes=GIB - 64 * MIB)
    kernel = box.put(ColdSet("csea", 4 * MIB, 2), on=full)
    kernel.sets[0].anon.swapped_bytes = 100 * MIB
    full.swaps[0].used_bytes = 100 * MIB
    assert box.run_undocumented("hibprep coldpgs swapin") == ExitCode.IMPOSSIBLE
    assert "hibprep swapin brings back as much as fits" in capsys.readouterr().err
    assert box.worker.requests == []


def test_swapin_of_the_machine(box: Box) -> None:
    box.put(*ANON)
    assert box.run_undocumented(f"{LINE} --colder-than 15s") == ExitCode.DONE
    assert box.run("hibprep coldpgs swapin") == ExitCode.DONE
    assert box.row("csea")[1] == 134311936
    assert (f"{SYSFS}/swapin", "swapin\n") in box.worker.requests
