# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon in guests with real systemd and logind: from idle to ready, a key press, a sleep in
the middle of a reclaim. Its unit is the one that hibprep brings, so that what it forbids, its
notifying and its watchdog are real as well."""

from __future__ import annotations

import pytest

from bench import desktop
from bench.asleep import asked_at
from bench.desktop import Desktop, Line, said
from bench.lab import Workload
from bench.returning import TOO_LATE
from bench.sleeps import told
from hibprep.model import Stage
from tests.vm.conftest import MIB, Boot, Booted

# So far apart that each stage has a run of its own, or nearly.
DELAYS = {Stage.SYNC: 2, Stage.CACHE: 4, Stage.COLD_ANON: 8, Stage.ANON: 30}

# Others that waited are believed to be at work for a minute, and everything takes longer, emulated.
MINUTES = 300
PHASES = {"active", "idle", "reclaiming", "ready", "sleeping", "resuming"}


def config(delays: dict[Stage, int]) -> str:
    return f"""
[target]
kind = "min"
[reclaim]
cold_age_seconds = 2
[daemon]
settle_seconds = 5
[idle]
after_seconds = 2
sync_after_seconds = {delays[Stage.SYNC]}
cache_after_seconds = {delays[Stage.CACHE]}
cold_anon_after_seconds = {delays[Stage.COLD_ANON]}
anon_after_seconds = {delays[Stage.ANON]}
check_again_seconds = 3600
cpu_idle_percent = 0
"""


def phases_in(lines: list[Line]) -> list[str]:
    words = [line.text.partition(":")[0] for line in lines if line.unit == desktop.UNIT]
    return [word for word in words if word in PHASES]


def stages_done(machine: Booted) -> list[Stage]:
    """The stages that the daemon's runs have worked through so far, in their order."""
    reports = machine.hibprep("history")["reports"]
    return [Stage(step["stage"]) for report in reports for step in report["steps"]]


def settings(machine: Booted) -> list[str]:
    return [
        machine.guest.read(path).strip()
        for path in ("/proc/sys/vm/swappiness", "/sys/kernel/mm/lru_gen/enabled")
    ]


def from_idle_to_ready(machine: Booted, desk: Desktop, workload: Workload) -> None:
    """Stage after stage, none before its time."""
    left_at = desktop.monotonic(machine.guest)
    desk.hint(idle=True)
    desktop.wait_for_phase(machine.guest, ["ready"], MINUTES)
    lines = desktop.journal(machine.guest, since=left_at)
    print(said(lines))
    order = list(Stage)
    stages = stages_done(machine)
    print(stages)
    assert stages == sorted(stages, key=order.index)
    assert {Stage.CACHE, Stage.COLD_ANON} <= set(stages)
    phases = phases_in(lines)
    assert phases[0] in {"idle", "reclaiming"}
    assert phases[-1] == "ready"
    for unit in ("dbus.service", "systemd-logind.service"):  # they tell of the next key press
        path = f"/sys/fs/cgroup/system.slice/{unit}/memory.swap.current"
        assert int(machine.guest.read(path)) == 0
    assert workload.residency().cold_share <= 0.05
    begun = [line.at_seconds - left_at for line in lines if line.text.startswith("start: ")]
    assert begun
    assert begun[0] >= DELAYS[Stage.SYNC]


def a_key_press_ends_it(machine: Booted, desk: Desktop) -> None:
    desk.hint(idle=False)
    desktop.wait_for_phase(machine.guest, ["active"], MINUTES)


def all_stages_in_one_run(machine: Booted) -> None:
    """From now on, so that there is time to come back in the middle."""
    machine.guest.put(config(dict.fromkeys(DELAYS, 2)).encode(), desktop.CONFIG_FILE)
    machine.guest.run(["systemctl", "reload", desktop.UNIT], check=True)
    lines = desktop.journal(machine.guest)
    assert desktop.first(lines, "the configuration is read anew") is not None, said(lines)


def a_key_press_stops_a_reclaim(machine: Booted, desk: Desktop, before: list[str]) -> None:
    began_at = desktop.monotonic(machine.guest)
    desk.hint(idle=True)
    desktop.wait_for_phase(machine.guest, ["reclaiming"], MINUTES)
    desk.hint(idle=False)
    desktop.wait_for_phase(machine.guest, ["active"], MINUTES)
    lines = desktop.journal(machine.guest, since=began_at)
    stop = desktop.first(lines, "stop: ")
    assert stop is not None, said(lines)
    ended = desktop.first(lines, "run ended, interrupted", since=stop.at_seconds)
    assert ended is not None, said(lines)
    print(f"stopped in {ended.at_seconds - stop.at_seconds:.3f} s: {ended.text}")
    assert settings(machine) == before


def a_sleep_in_the_middle(machine: Booted, desk: Desktop) -> None:
    """Not held back beyond a moment, nothing lost, and everything as before after it."""
    assert desktop.holds_sleep_back(machine.guest)
    command = [*desktop.RETURNING, "sleep", f"--session={desk.path}", "--delay=0.5", "--"]
    timing = machine.guest.hibernate([*command, "systemctl", "hibernate"], timeout=MINUTES)
    machine.guest.resume()
    desk.hint(idle=False)
    assert machine.guest.hibernation_result().returncode != TOO_LATE
    desktop.wait_for_phase(machine.guest, ["active"], MINUTES)
    asked = asked_at(timing)
    lines = desktop.journal(machine.guest, desktop.UNIT, desktop.LOGIND_UNIT, since=asked)
    found = told(lines, asked)
    print(timing.seconds - timing.seconds_at("asks"), found)
    assert found.stopped, said(lines)
    assert not found.timed_out, said(lines)
    assert phases_in(lines)[:3] == ["sleeping", "resuming", "active"], said(lines)
    assert desktop.holds_sleep_back(machine.guest)


def the_unit_was_kept_to(machine: Booted, pid: str, started: str) -> None:
    """The same process to the end, in systemd's eyes too, and the watchdog is fed."""
    state, now_pid, restarts, fed = desktop.shown(
        machine.guest, "ActiveState", "MainPID", "NRestarts", "WatchdogTimestampMonotonic"
    )
    assert (state, now_pid, restarts) == ("active", pid, "0")
    assert int(fed) > int(started)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_idle_to_ready_a_key_press_and_a_sleep_in_the_middle(boot: Boot, suite: str) -> None:
    machine = boot(suite)
    guest = machine.guest
    workload = Workload(guest, cold_bytes=700 * MIB, warm_bytes=64 * MIB)
    workload.start()
    desk = desktop.open_session(guest)
    desktop.start_daemon(guest, config(DELAYS))
    desktop.put_program(guest)
    before = settings(machine)
    pid, started = desktop.shown(guest, "MainPID", "WatchdogTimestampMonotonic")
    sources = {each["name"]: each for each in machine.hibprep("status")["daemon"]["sources"]}
    print(sources)
    assert {name for name, each in sources.items() if not each["works"]} == set()
    assert "delay lock on sleep is held" in sources["logind"]["reason"]

    from_idle_to_ready(machine, desk, workload)
    a_key_press_ends_it(machine, desk)
    assert settings(machine) == before
    verified = workload.verify()
    assert verified["ok"], verified

    all_stages_in_one_run(machine)
    a_key_press_stops_a_reclaim(machine, desk, before)
    a_sleep_in_the_middle(machine, desk)
    assert settings(machine) == before
    verified = workload.verify()
    assert verified["ok"], verified
    the_unit_was_kept_to(machine, pid, started)
