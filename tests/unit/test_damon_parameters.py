# SPDX-License-Identifier: LGPL-2.1-or-later
"""DAMON_RECLAIM's parameters: what may be written, what makes sense together, why it idles."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.damon.choice import WrongParameters, chosen
from hibprep.damon.idle import obstacles, reasons, suspect
from hibprep.damon.parameters import (
    DEFAULTS,
    LARGEST,
    PARAMETERS,
    PRESETS,
    STATISTICS,
    Unit,
    kernel_text,
    parse_value,
    shown,
)
from hibprep.damon.state import Holder, ReclaimState, Surroundings
from hibprep.damon.valid import errors

GIB = 1 << 30
RAM = ((0x1000, 0x9FC00), (0x100000, 0xC0000000), (0x100000000, 0x140000000))
OFF = ReclaimState(
    inputs=dict(DEFAULTS),
    enabled=False,
    committing=False,
    kdamond_pid=-1,
    statistics=dict.fromkeys(STATISTICS, 0),
)
RUNNING = replace(
    OFF,
    enabled=True,
    kdamond_pid=433,
    inputs={
        **DEFAULTS,
        "monitor_region_start": 0x100000,
        "monitor_region_end": 4 * GIB - 1,
    },
)
AROUND = Surroundings(
    kernel=(6, 18),
    total_bytes=4 * GIB,
    free_bytes=GIB,
    swap_free_bytes=GIB,
    ram=RAM,
    running_seconds=1000.0,
)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("min_age", "30000000", 30_000_000),
        ("min_age", "30s", 30_000_000),
        ("min_age", "2min", 120_000_000),
        ("min_age", "1.5 s", 1_500_000),
        ("sample_interval", "5ms", 5000),
        ("aggr_interval", "100000us", 100_000),
        ("quota_ms", "1s", 1000),
        ("quota_ms", "10", 10),
        ("quota_sz", "1073741824", GIB),
        ("quota_sz", "1G", GIB),
        ("quota_sz", "1GB", 10**9),
        ("wmarks_high", "500", 500),
        ("wmarks_mid", "40%", 400),
        ("wmarks_low", "12.5%", 125),
        ("monitor_region_start", "0x100000", 0x100000),
        ("monitor_region_end", "4G", 4 * GIB),
        ("skip_anon", "Y", True),
        ("skip_anon", "off", False),
        ("min_nr_regions", "3", 3),
        ("quota_sz", str(LARGEST), LARGEST),
    ],
)
def test_values_are_read_as_people_write_them(name: str, text: str, value: int) -> None:
    found = parse_value(PARAMETERS[name], text)
    assert found == value
    assert type(found) is type(PARAMETERS[name].default)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("min_age", "-1"),
        ("min_age", "0.5us"),
        ("min_age", "30 parsecs"),
        ("min_age", ""),
        ("min_age", "0x10"),
        ("quota_ms", "1us"),
        ("quota_sz", "lots"),
        ("quota_sz", str(LARGEST + 1)),
        ("wmarks_high", "1001"),
        ("wmarks_high", "101%"),
        ("wmarks_high", "0.05%"),
        ("aggr_interval", "0"),
        ("sample_interval", "0"),
        ("min_nr_regions", "2"),
        ("addr_unit", "0"),
        ("skip_anon", "maybe"),
        ("skip_anon", "2"),
        ("min_nr_regions", "10s"),
    ],
)
def test_a_wrong_value_is_named_with_its_parameter(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        parse_value(PARAMETERS[name], text)


@given(st.sampled_from(sorted(PARAMETERS)), st.data())
def test_what_the_kernel_takes_it_shows_again(name: str, data: st.DataObject) -> None:
    parameter = PARAMETERS[name]
    value: int | bool
    if parameter.unit is Unit.SWITCH:
        value = data.draw(st.booleans())
    else:
        value = data.draw(st.integers(parameter.least, parameter.most))
    assert parse_value(parameter, kernel_text(value)) == value
    assert shown(parameter, value)


def test_the_defaults_and_the_presets_are_valid() -> None:
    assert errors({}, RAM) == ()
    for preset in PRESETS.values():
        assert errors(preset, RAM) == ()
        assert set(preset) <= set(PARAMETERS)


def test_the_preset_is_the_example_of_the_document() -> None:
    lines = [f"echo {kernel_text(value)} > {name}" for name, value in PRESETS["document"].items()]
    assert lines == [
        "echo 30000000 > min_age",
        "echo 1073741824 > quota_sz",
        "echo 1000 > quota_reset_interval_ms",
        "echo 500 > wmarks_high",
        "echo 400 > wmarks_mid",
        "echo 200 > wmarks_low",
    ]


WRONG = [
    ({"wmarks_low": 450}, "watermarks"),
    ({"wmarks_mid": 600}, "watermarks"),
    ({"min_nr_regions": 2000}, "min_nr_regions"),
    ({"sample_interval": 200_000}, "sample_interval"),
    ({"sample_interval": 1, "aggr_interval": 2**33, "min_age": 2**34}, "samples"),
    ({"min_age": 50_000}, "shorter than aggr_interval"),
    ({"min_age": 2**32 * 100_000}, "aggregations"),
    ({"quota_sz": 4095}, "quota_sz"),
    ({"quota_reset_interval_ms": 0}, "quota_reset_interval_ms"),
    ({"quota_ms": 1001}, "quota_ms"),
    ({"quota_mem_pressure_us": 1_000_001}, "quota_mem_pressure_us"),
    ({"monitor_region_start": 0x200000}, "less than a page"),
    ({"monitor_region_start": 0x1000000, "monitor_region_end": 0x100000}, "less than a page"),
    ({"monitor_region_start": 0x100000, "monitor_region_end": 0xD0000000}, "System RAM"),
    ({"monitor_region_start": 0xC0000000, "monitor_region_end": 0x120000000}, "System RAM"),
    ({"addr_unit": 3}, "addr_unit"),
    ({"autotune_monitoring_intervals": True, "sample_interval": 1000}, "autotune"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_what_makes_no_sense_together_is_refused(values: dict[str, int], words: str) -> None:
    found = errors(values, RAM)
    assert len(found) == 1
    assert words in found[0]


def test_every_error_is_told_at_once() -> None:
    together = {"wmarks_low": 450, "min_nr_regions": 2000, "quota_sz": 1, "addr_unit": 3}
    assert len(errors(together, RAM)) == 4


def test_a_region_may_have_holes_and_units() -> None:
    across = {"monitor_region_start": 0x1000, "monitor_region_end": 0x140000000}
    assert errors(across, RAM) == ()
    kibibytes = {"monitor_region_start": 0x400, "monitor_region_end": 0x300000, "addr_unit": 1024}
    assert errors(kibibytes, RAM) == ()
    assert errors({"monitor_region_start": 0x1000, "monitor_region_end": 0x1000000}, ()) == ()


def numbers(name: str) -> st.SearchStrategy[int]:
    parameter = PARAMETERS[name]
    return st.integers(parameter.least, parameter.most)


@given(
    st.fixed_dictionaries(
        {}, optional={name: numbers(name) for name in PARAMETERS if name[0] == "w"}
    )
)
def test_watermarks_are_right_exactly_when_they_are_in_order(values: dict[str, int]) -> None:
    full = {**DEFAULTS, **values}
    ordered = full["wmarks_low"] <= full["wmarks_mid"] <= full["wmarks_high"]
    assert (not errors(values)) is ordered


# --- what a person asks for ---------------------------------------------------------------------


def test_words_come_on_top_of_the_preset_and_of_what_is_set() -> None:
    choice = chosen(("min_age=10s", "wmarks_high=99%"), "document", OFF, AROUND)
    assert choice.inputs["min_age"] == 10_000_000
    assert choice.inputs["wmarks_high"] == 990
    assert choice.inputs["quota_sz"] == GIB
    assert choice.enabled
    assert not chosen(("enabled=N",), None, OFF, AROUND).enabled
    # judged with what is set already
    with pytest.raises(WrongParameters, match="watermarks"):
        chosen(("wmarks_high=300",), None, OFF, AROUND)


def test_all_that_is_wrong_is_told_at_once() -> None:
    words = (
        "min_agee=1s",
        "quota_sz=much",
        "wmarks_low=450",
        "quota_ms",
        "min_age=1s",
        "min_age=2s",
    )
    with pytest.raises(WrongParameters) as raised:
        chosen(words, None, OFF, AROUND)
    lines = raised.value.lines
    assert len(lines) == 5
    for part in ("did you mean min_age?", "quota_sz: ", "watermarks", "PARAM=VALUE", "twice"):
        assert any(part in line for line in lines), part


def test_a_parameter_that_this_kernel_lacks_is_refused_with_the_kernel_that_has_it() -> None:
    old = replace(OFF, inputs={k: v for k, v in OFF.inputs.items() if k != "addr_unit"})
    with pytest.raises(WrongParameters, match=r"addr_unit.*6\.18"):
        chosen(("addr_unit=1024",), None, old, AROUND)
    with pytest.raises(WrongParameters, match="nothing to set"):
        chosen((), None, OFF, AROUND)


# --- why it does nothing ------------------------------------------------------------------------


def names(state: ReclaimState, around: Surroundings) -> list[str]:
    return [each.name for each in reasons(state, around)]


def test_nothing_stands_in_its_way() -> None:
    assert names(RUNNING, AROUND) == []
    assert names(OFF, AROUND) == []


CHANGED_INPUTS = {**RUNNING.inputs, "quota_ms": 0}
IDLE: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("kdamond", {"kdamond_pid": -1}, {}),
    ("kdamond", {}, {"running_seconds": None}),
    ("commit", {"committing": True}, {}),
    ("uncommitted", {}, {"committed": CHANGED_INPUTS}),
    ("watermarks", {}, {"free_bytes": 3 * GIB}),
    ("watermarks", {}, {"free_bytes": GIB // 2}),
    ("watermarks", {}, {"free_bytes": int(1.8 * GIB)}),
    ("age", {}, {"running_seconds": 119.0}),
    ("quota", {"inputs": {**RUNNING.inputs, "quota_sz": 100}}, {}),
    ("region", {"inputs": {**RUNNING.inputs, "monitor_region_end": GIB}}, {}),
    ("swap", {}, {"swap_free_bytes": 0}),
    ("kernel", {}, {"kernel": (6, 12)}),
    (
        "accessed",
        {"statistics": {**RUNNING.statistics, "bytes_reclaim_tried_regions": 5}},
        {},
    ),
]


@pytest.mark.parametrize(("name", "state", "around"), IDLE)
def test_each_reason_is_told_alone_with_a_remedy(
    name: str, state: dict[str, object], around: dict[str, object]
) -> None:
    found = reasons(replace(RUNNING, **state), replace(AROUND, **around))  # type: ignore[arg-type]
    assert [each.name for each in found] == [name]
    assert found[0].text
    assert found[0].remedy


def test_the_kernel_is_not_blamed_before_its_time_nor_after_it_did_something() -> None:
    broken = replace(AROUND, kernel=(6, 12))
    assert names(RUNNING, replace(broken, running_seconds=5.0)) == ["age"]
    assert names(RUNNING, replace(broken, free_bytes=3 * GIB)) == ["watermarks"]
    worked = {**RUNNING.statistics}
    worked |= {"bytes_reclaim_tried_regions": 5, "bytes_reclaimed_regions": 5}
    assert names(replace(RUNNING, statistics=worked), broken) == []


@pytest.mark.parametrize(
    ("kernel", "lost"), [((6, 10), False), ((6, 11), True), ((6, 16), True), ((6, 17), False)]
)
def test_which_kernels_lose_the_scheme(kernel: tuple[int, int], *, lost: bool) -> None:
    assert suspect(kernel) is lost


def test_who_holds_damon_is_named_with_what_to_type() -> None:
    stat = Holder("DAMON_STAT", switch="/sys/module/damon_stat/parameters/enabled")
    damo = Holder("kdamond 0", pid=77)
    found = obstacles(replace(AROUND, holders=(stat, damo)))
    assert found[0].remedy == "echo N > /sys/module/damon_stat/parameters/enabled"
    assert "kdamond 77" in found[1].text
