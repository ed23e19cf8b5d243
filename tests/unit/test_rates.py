# SPDX-License-Identifier: LGPL-2.1-or-later
"""The speeds of a machine: which of three sources wins, and what is kept."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hibprep import rates
from hibprep.kernel.root import KernelRoot
from hibprep.model import Ending, Freed, Rates, Report, Stage, StepReport
from tests.unit import examples

NAMES = [field.name for field in fields(Rates) if field.name != "sources"]


@dataclass
class Clock:
    """Each look at it is a millisecond later: nothing that is timed takes no time."""

    seconds: float = 0.0

    def monotonic(self) -> float:
        self.seconds += 0.001
        return self.seconds

    def boottime(self) -> float:
        return self.monotonic()

    def now(self) -> datetime:
        return datetime(2026, 11, 21, 10, 0, tzinfo=UTC)


def kept(root: KernelRoot, text: str) -> None:
    path = root.path(rates.FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# --- which wins -----------------------------------------------------------------------------------


def test_defaults_say_that_they_are() -> None:
    found = rates.combine({}, {})
    assert {name: getattr(found, name) for name in NAMES} == {
        name: getattr(Rates(), name) for name in NAMES
    }
    assert found.sources == dict.fromkeys(NAMES, "default")


def test_measured_beats_the_default_and_configured_beats_both() -> None:
    found = rates.combine(
        {
            "disk_read_bytes_per_second": (5e8, "2026-11-21"),
            "disk_write_bytes_per_second": (4e8, "2026-11-21"),
        },
        {"disk_write_bytes_per_second": 3e8, "compression_ratio": 0.3},
    )
    assert found.disk_read_bytes_per_second == 5e8
    assert found.disk_write_bytes_per_second == 3e8
    assert found.compression_ratio == 0.3
    assert found.sources["disk_read_bytes_per_second"] == "measured 2026-11-21"
    assert found.sources["disk_write_bytes_per_second"] == "configured"
    assert found.sources["copy_bytes_per_second"] == "default"


def test_a_rate_of_another_version_is_passed_over() -> None:
    found = rates.combine({"warp_factor": (9.0, "2026"), "sources": (1.0, "2026")}, {})
    assert set(found.sources) == set(NAMES)


# --- what is kept -------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    measured = {"disk_read_bytes_per_second": (123456.5, "2026-11-21")}
    assert rates.save(root, measured) == ""
    assert rates.load(root) == measured
    folder = root.path(rates.FILE).parent
    assert [path.name for path in folder.iterdir()] == ["rates.json"]  # no temporary file
    assert folder.stat().st_mode & 0o077 == 0


def test_nothing_is_kept_at_first(tmp_path: Path) -> None:
    assert rates.load(KernelRoot(tmp_path)) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        '{"a": 1}',
        '{"a": [1]}',
        '{"a": ["x", "y"]}',
        '{"a": {"b": 1}}',
        '{"a": [null, "2026"]}',
        f'{{"a": [1{"0" * 400}, "2026"]}}',
    ],
)
def test_a_file_that_makes_no_sense_is_as_none(text: str, tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    kept(root, text)
    assert rates.load(root) == {}


def test_speeds_of_nothing_are_left_out(tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    kept(root, json.dumps({"a": [0, "2026"], "b": [-1, "2026"], "c": [2, "2026"]}))
    assert rates.load(root) == {"c": (2.0, "2026")}


@pytest.mark.parametrize("text", ['{"copy_bytes_per_second": [NaN, "x"]}', '{"a": [Infinity, ""]}'])
def test_speeds_that_are_no_numbers_are_left_out(text: str, tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    kept(root, text)
    assert rates.load(root) == {}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        max_leaves=8,
    )
)
def test_no_file_is_a_reason_to_fail(value: object, tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    kept(root, json.dumps(value))
    found = rates.load(root)
    assert all(0 < speed < float("inf") for speed, _ in found.values())
    rates.combine(found, {})


def test_a_place_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where a folder should be")
    note = rates.save(KernelRoot(tmp_path), {})
    assert "rates.json" in note
    assert os.strerror(20) in note


# --- measuring ----------------------------------------------------------------------------------


def test_a_resume_device_that_cannot_be_read_is_a_note_and_the_rest_is_measured(
    tmp_path: Path,
) -> None:
    found, notes = rates.measure(KernelRoot(tmp_path), examples.SNAPSHOT, Clock())
    assert set(found) == {"compress_bytes_per_second", "decompress_bytes_per_second"}
    assert {when for _, when in found.values()} == {"2026-11-21"}
    assert all(speed > 0 for speed, _ in found.values())
    (note,) = notes
    assert "resume device" in note


def test_the_resume_device_is_read_and_never_written(tmp_path: Path) -> None:
    device = tmp_path / "dev/vda2"
    device.parent.mkdir()
    text = os.urandom(64 << 20)
    device.write_bytes(text)
    device.chmod(0o400)
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip(f"the file system of {tmp_path} has no O_DIRECT (tmpfs before 6.6)")
    found, notes = rates.measure(KernelRoot(tmp_path), examples.SNAPSHOT, Clock())
    assert notes == ()
    assert found["disk_read_bytes_per_second"][0] > 0
    assert found["disk_write_bytes_per_second"] == found["disk_read_bytes_per_second"]
    assert device.read_bytes() == text


# --- learning -------------------------------------------------------------------------------------

GB = 10**9


def step(stage: Stage, **changes: Any) -> StepReport:  # noqa: ANN401
    found = StepReport(
        stage=stage, scope="whole machine", backend="memcg", asked_bytes=GB, freed=Freed(),
        seconds=1.0, chunks=1, ending=Ending.DONE, reason="",
    )  # fmt: skip
    return replace(found, **changes)


def run_of(*steps: StepReport, seconds: float = 12.0) -> Report:
    return replace(examples.REPORT, steps=steps, seconds=seconds)


CACHE = step(Stage.CACHE, freed=Freed(file_bytes=2 * GB), seconds=1.0)
ANON = step(Stage.ANON, freed=Freed(anon_bytes=GB, swapped_out_bytes=GB), seconds=5.0)
COLD = step(
    Stage.COLD_ANON, freed=Freed(anon_bytes=GB, swapped_out_bytes=GB), seconds=25.0,
    waited_seconds=20.0,
)  # fmt: skip


def test_a_run_tells_how_fast_memory_goes() -> None:
    found = rates.learnt(run_of(CACHE, COLD, ANON, seconds=32.5), {}, "2026-11-22")
    assert found == {
        "drop_bytes_per_second": (2e9, "2026-11-22"),
        "swap_out_bytes_per_second": (2e8, "2026-11-22"),  # what was waited for is no work
        "fixed_prepare_seconds": (1.5, "2026-11-22"),
    }
    assert set(found) <= set(NAMES)


@pytest.mark.parametrize(("known", "learnt"), [(1e9, 1.5e9), (4e9, 2e9)])
def test_slower_counts_at_once_and_faster_half(known: float, learnt: float) -> None:
    found = rates.learnt(run_of(CACHE), {"drop_bytes_per_second": (known, "2026")}, "2027")
    assert found["drop_bytes_per_second"] == (learnt, "2027")


@pytest.mark.parametrize(("known", "learnt"), [(1.0, 2.0), (4.0, 3.0)])
def test_what_takes_longer_beside_the_steps_counts_at_once(known: float, learnt: float) -> None:
    found = rates.learnt(run_of(CACHE, seconds=3.0), {"fixed_prepare_seconds": (known, "")}, "2027")
    assert found["fixed_prepare_seconds"] == (learnt, "2027")


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (step(Stage.CACHE, freed=Freed(file_bytes=1 << 20)),),
        (step(Stage.ANON, freed=Freed(anon_bytes=GB), seconds=0.0),),
        # it went to zswap
        (step(Stage.ANON, freed=Freed(anon_bytes=GB, swapped_out_bytes=GB // 10)),),
        (step(Stage.SYNC),),
    ],
)
def test_a_run_that_tells_nothing_of_speed_teaches_none(steps: tuple[StepReport, ...]) -> None:
    found = rates.learnt(run_of(*steps), {}, "2026")
    assert set(found) <= {"fixed_prepare_seconds"}
    assert bool(found) is bool(steps)


@given(
    seconds=st.floats(0, 1000),
    waited=st.floats(0, 1000),
    amount=st.integers(0, 1 << 45),
    whole=st.floats(0, 2000),
)
def test_whatever_is_learnt_can_be_worked_with(
    seconds: float, waited: float, amount: int, whole: float
) -> None:
    freed = Freed(anon_bytes=amount, file_bytes=amount, swapped_out_bytes=amount)
    steps = [
        step(stage, freed=freed, seconds=seconds, waited_seconds=min(seconds, waited))
        for stage in Stage
    ]
    found = rates.learnt(run_of(*steps, seconds=whole), {}, "2026")
    assert all(0 < value < float("inf") for value, _ in found.values())
    rates.combine(found, {})
