# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.errors import ExitCode, HibprepError, UsageError
from hibprep.guests.errors import (
    ConnectionFailedError,
    DestinationError,
    GuestError,
    JobActiveError,
    NoRoomError,
    NoSuchDomainError,
    NotRunningError,
    UnsupportedError,
)
from hibprep.guests.hardware import Hardware
from hibprep.guests.migrate import MigrateWish, migrate
from hibprep.guests.move_report import MoveReport, Where
from hibprep.guests.port import DomainState, JobPhase, JobStats, MigrateOptions, Operation
from hibprep.guests.prepare import Options
from hibprep.guests.progress import Part
from hibprep.guests.undo import UndoEnding, undo_all
from hibprep.model import Ending
from tests.fakes.libvirt_host import FakeDomain, FakeHost, Faults, Killed
from tests.fakes.libvirt_inside import AgentMood
from tests.fakes.libvirt_memory import MIB
from tests.waiting import until

from .moving_guests import TwoHosts, until_aborted


def moved(hosts: TwoHosts, wish: MigrateWish | None = None, name: str = "web") -> MoveReport:
    here, there = hosts.sides()
    return migrate(
        name, here, there, wish or MigrateWish(), means=hosts.means(), tell=hosts.told.append
    )


def test_a_guest_is_small_on_the_way_and_has_its_memory_back_there() -> None:
    hosts = TwoHosts()
    small: list[bool] = []
    hosts.guest().during = lambda domain: small.append(domain.memory.actual < domain.memory.maximum)
    report = moved(hosts)
    assert small == [True]
    assert hosts.where().host is hosts.b
    hosts.assert_as_before()
    assert report.ending is Ending.DONE
    assert report.exit_code is ExitCode.DONE
    assert report.where is Where.DESTINATION
    assert report.left == ()
    assert report.undone is not None
    assert report.undone.ending is UndoEnding.DONE
    assert report.undone.original_bytes == report.undone.actual_bytes == 1024 * MIB
    assert report.unprepared is not None
    assert report.prepared is not None
    assert report.job.memory_processed_bytes < report.unprepared.sent_bytes / 2
    assert report.job.operation is Operation.MIGRATION_IN
    assert report.sent_bytes_per_second > 0


@pytest.mark.parametrize("p2p", [True, False])
@pytest.mark.parametrize("persist", [True, False])
@pytest.mark.parametrize("undefine", [True, False])
def test_nothing_of_ours_is_left_in_any_configuration(
    *, p2p: bool, persist: bool, undefine: bool
) -> None:
    hosts = TwoHosts()
    hosts.guest()
    options = MigrateOptions(
        peer_to_peer=p2p, persist_destination=persist, undefine_source=undefine
    )
    assert moved(hosts, MigrateWish(options=options)).exit_code is ExitCode.DONE
    assert ("web" in hosts.a.all) is not undefine
    hosts.assert_as_before()


def test_as_it_is() -> None:
    hosts = TwoHosts()
    hosts.guest()
    report = moved(hosts, MigrateWish(prepare=None))
    assert "set_balloon" not in hosts.faults.names
    assert "set_metadata" not in hosts.faults.names
    assert report.preparation is None
    assert report.prepared is None
    assert report.unprepared is not None
    assert report.job.memory_processed_bytes > 700 * MIB
    assert report.exit_code is ExitCode.DONE


@pytest.mark.parametrize(
    ("why", "hardware"),
    [
        ("huge pages", Hardware(balloon=True, huge_pages=True)),
        ("VFIO", Hardware(balloon=True, vfio=("the pci device 0000:01:00.0",))),
        ("no virtio balloon", Hardware()),
    ],
)
def test_what_cannot_be_prepared_is_moved_as_it_is(why: str, hardware: Hardware) -> None:
    hosts = TwoHosts()
    hosts.guest(hardware=hardware)
    report = moved(hosts)
    assert report.exit_code is ExitCode.DONE
    assert len(report.notes) == 1
    assert report.notes[0].startswith("not prepared: ")
    assert why in report.notes[0]
    hosts.assert_as_before()


def test_a_paused_guest_is_moved_as_it_is() -> None:
    hosts = TwoHosts()
    hosts.guest(state=DomainState.PAUSED)
    report = moved(hosts)
    assert report.notes == ("not prepared: it is paused, and can give no memory up",)
    assert report.where is Where.DESTINATION


@pytest.mark.parametrize("mood", [AgentMood.HANGS, AgentMood.SILENT, AgentMood.DIES])
def test_an_agent_that_hangs_keeps_nobody(mood: AgentMood) -> None:
    hosts = TwoHosts()
    guest = hosts.guest()
    assert guest.agent_inside is not None
    guest.agent_inside.mood = mood
    report = moved(hosts)
    assert report.where is Where.DESTINATION
    assert report.exit_code is ExitCode.DONE
    hosts.assert_as_before()


def test_a_balloon_that_does_not_move_is_put_back() -> None:
    hosts = TwoHosts()
    hosts.guest().memory.balloon_rate = 0
    report = moved(hosts)
    assert report.where is Where.DESTINATION
    assert report.exit_code is ExitCode.DONE
    hosts.assert_as_before()


# --- what speaks against it before anything is begun ----------------------------------------------


def test_what_is_refused_before_changes_nothing() -> None:
    hosts = TwoHosts()
    guest = hosts.guest()

    def refused(error: type[HibprepError], *, to: str = hosts.b.uri, **what: object) -> str:
        here, there = hosts.sides()
        there.uri = to
        wish = replace(MigrateWish(), **what)  # type: ignore[arg-type]
        with pytest.raises(error) as caught:
            migrate("web", here, there, wish, means=hosts.means(), tell=hosts.told.append)
        assert not {"set_metadata", "set_balloon", "migrate"} & set(hosts.faults.names)
        return str(caught.value)

    assert "is the host on which web runs" in refused(UsageError, to=hosts.a.uri)
    assert "cannot be reached from here" in refused(DestinationError, to="fake://nowhere/system")
    hosts.b.free = 1000 * MIB
    assert "1000.0 MiB free" in refused(NoRoomError)
    hosts.b.free = None
    hosts.b.all["web"] = FakeDomain(host=hosts.b, name="web", memory=guest.memory)
    assert "runs on fake://b/system already" in refused(DestinationError)
    del hosts.b.all["web"]
    guest.state = DomainState.SHUT_OFF
    assert "web is shut off" in refused(NotRunningError)


def test_no_such_guest() -> None:
    hosts = TwoHosts()
    with pytest.raises(NoSuchDomainError):
        moved(hosts)


def test_less_room_there_if_that_is_wanted() -> None:
    hosts = TwoHosts()
    hosts.guest()
    hosts.b.free = 600 * MIB  # enough for it as it comes
    assert moved(hosts, MigrateWish(overcommit=True)).where is Where.DESTINATION
    hosts.assert_as_before()


def test_a_job_that_is_under_way_is_left_alone() -> None:
    hosts = TwoHosts()
    job = JobStats(phase=JobPhase.RUNNING, operation=Operation.BACKUP)
    hosts.guest(running_job=job)
    report = moved(hosts)
    assert report.ending is Ending.FAILED
    assert "backup" in report.reason
    assert report.where is Where.SOURCE
    assert report.exit_code is ExitCode.IMPOSSIBLE
    assert not {"set_metadata", "set_balloon", "migrate"} & set(hosts.faults.names)


# --- what goes wrong on the way -------------------------------------------------------------------


def test_ctrl_c_aborts_and_puts_back_here() -> None:
    hosts = TwoHosts()

    def press(domain: FakeDomain) -> None:
        hosts.interrupt()
        until_aborted(domain)

    hosts.guest().during = press
    report = moved(hosts)
    assert report.ending is Ending.INTERRUPTED
    assert report.exit_code is ExitCode.INTERRUPTED
    assert report.reason == "web: interrupted by SIGINT"
    assert report.where is Where.SOURCE
    assert report.left == ()
    hosts.assert_as_before()


def test_ctrl_c_while_preparing() -> None:
    hosts = TwoHosts()
    guest = hosts.guest()
    guest.memory.balloon_rate = 1 * MIB
    here, there = hosts.sides()

    def tell(progress: object) -> None:
        if getattr(progress, "note", "") == "balloon":
            hosts.interrupt()

    report = migrate("web", here, there, MigrateWish(), means=hosts.means(), tell=tell)
    assert report.exit_code is ExitCode.INTERRUPTED
    assert "migrate" not in hosts.faults.names
    hosts.assert_as_before()


def test_the_time_limit_aborts_and_puts_back_here() -> None:
    hosts = TwoHosts()

    def slow(domain: FakeDomain) -> None:
        hosts.clock.go_on(61)
        until_aborted(domain)

    hosts.guest().during = slow
    report = moved(hosts, MigrateWish(limit_seconds=60))
    assert report.ending is Ending.DEADLINE
    assert report.exit_code is ExitCode.PARTLY
    assert report.reason == "web: it took longer than 60 s"
    assert report.where is Where.SOURCE
    hosts.assert_as_before()


def test_what_is_complete_when_it_is_aborted_is_complete() -> None:
    hosts = TwoHosts()

    def press(domain: FakeDomain) -> None:
        hosts.interrupt()
        until_aborted(domain)
        domain.aborted = False  # too late

    hosts.guest().during = press
    report = moved(hosts)
    assert report.where is Where.DESTINATION
    assert report.exit_code is ExitCode.DONE
    hosts.assert_as_before()


def test_the_destination_dies() -> None:
    hosts = TwoHosts()

    def die(_domain: FakeDomain) -> None:
        hosts.cut_off(hosts.b)
        raise DestinationError("web: operation failed: migration out job: Broken pipe")

    hosts.guest().during = die
    report = moved(hosts)
    assert report.ending is Ending.FAILED
    assert report.exit_code is ExitCode.IMPOSSIBLE
    assert "Broken pipe" in report.reason
    assert report.where is Where.SOURCE
    assert report.left == ()
    hosts.assert_as_before()


def test_the_sources_libvirtd_is_away_for_a_moment() -> None:
    hosts = TwoHosts()

    def die(domain: FakeDomain) -> None:
        error = ConnectionFailedError("fake://a/system: the socket is closed")
        domain.host.faults.at, domain.host.faults.error = 0, error
        raise error

    hosts.guest().during = die
    report = moved(hosts)
    assert report.where is Where.SOURCE
    assert report.left == ()
    assert report.exit_code is ExitCode.IMPOSSIBLE
    assert hosts.connected.count(hosts.a.uri) > 1
    hosts.assert_as_before()


def test_the_sources_libvirtd_stays_away() -> None:
    hosts = TwoHosts()

    def die(domain: FakeDomain) -> None:
        hosts.cut_off(domain.host)
        raise ConnectionFailedError("fake://a/system: the socket is closed")

    hosts.guest().during = die
    report = moved(hosts)
    assert report.where is Where.UNKNOWN
    assert report.exit_code is ExitCode.PARTLY
    assert len(report.left) == 1
    assert report.left[0].startswith("hibprep guest undo --connect fake://a/system web (")
    assert hosts.is_small()
    hosts.back(hosts.a)
    undo_all(hosts.a, hosts.means(pid=2))
    hosts.assert_as_before()


def test_it_arrived_although_nobody_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = TwoHosts()
    hosts.guest()
    really = FakeDomain.migrate

    def lost(*arguments: object, **named: object) -> None:
        really(*arguments, **named)  # type: ignore[arg-type]
        raise ConnectionFailedError("fake://a/system: the socket is closed")

    monkeypatch.setattr(FakeDomain, "migrate", lost)
    report = moved(hosts)
    assert report.where is Where.DESTINATION
    assert report.exit_code is ExitCode.DONE
    assert "it arrived, although" in report.notes[0]
    hosts.assert_as_before()


def test_a_destination_that_dies_with_the_guest_on_it_is_said() -> None:
    hosts = TwoHosts()
    guest = hosts.guest()
    really = FakeDomain.migrate

    class Dying(FakeDomain):
        def migrate(self, *arguments: object) -> None:
            really(self, *arguments)  # type: ignore[arg-type]
            hosts.cut_off(hosts.b)

    guest.__class__ = Dying
    report = moved(hosts)
    assert report.where is Where.DESTINATION
    assert report.exit_code is ExitCode.PARTLY
    assert report.left[0].startswith("hibprep guest undo --connect fake://b/system web (")
    hosts.back(hosts.b)
    undo_all(hosts.b, hosts.means(pid=2))
    hosts.assert_as_before()


def test_post_copy_begins_after_a_pass_and_is_not_aborted() -> None:
    hosts = TwoHosts()

    def second_pass(domain: FakeDomain) -> None:
        domain.running_job = replace(domain.running_job, iteration=2)
        until(lambda: "start_postcopy" in hosts.faults.names, "post-copy is begun")
        hosts.interrupt()
        until(lambda: any("post-copy" in each.note for each in hosts.told), "it is told")

    hosts.guest().during = second_pass
    report = moved(hosts, MigrateWish(options=MigrateOptions(postcopy=True)))
    assert "abort_job" not in hosts.faults.names
    assert report.where is Where.DESTINATION
    assert report.exit_code is ExitCode.DONE
    hosts.assert_as_before()
    # the destination knows nothing of it, and the source has told
    assert report.job.operation is Operation.MIGRATION_OUT
    assert report.job.memory_processed_bytes > 0
    assert hosts.a.listeners == []


def test_a_host_that_tells_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(_host: FakeHost, _on_event: object) -> object:
        raise UnsupportedError("no events here")

    monkeypatch.setattr(FakeHost, "watch", watch)
    hosts = TwoHosts()
    hosts.guest()
    report = moved(hosts, MigrateWish(options=MigrateOptions(postcopy=True)))
    assert report.exit_code is ExitCode.DONE
    assert "libvirt tells no statistics of the migration" in report.notes
    hosts.assert_as_before()


def test_progress_is_told_of_every_part() -> None:
    hosts = TwoHosts()

    def wait(domain: FakeDomain) -> None:
        domain.running_job = replace(
            domain.running_job, memory_remaining_bytes=300 * MIB, elapsed_seconds=2.0
        )
        until(lambda: any(each.part is Part.MIGRATING for each in hosts.told), "it is told")

    hosts.guest().during = wait
    moved(hosts)
    assert list(dict.fromkeys(each.part for each in hosts.told)) == [
        Part.PREPARING,
        Part.MIGRATING,
        Part.UNDOING,
    ]
    migrating = next(each for each in hosts.told if each.part is Part.MIGRATING)
    assert migrating.done_bytes == 724 * MIB
    assert migrating.left_seconds == pytest.approx(2.0 * 300 / 724)


# --- whatever happens -----------------------------------------------------------------------------

MOST_CALLS = 125  # of a whole migration; asserted below

failures = st.sampled_from(
    [
        GuestError("web: operation failed"),
        ConnectionFailedError("fake://a/system: the socket is closed"),
        JobActiveError("web: cannot acquire state change lock"),
        Killed(),
    ]
)


def test_how_many_calls_a_migration_makes() -> None:
    hosts = TwoHosts()
    hosts.guest()
    moved(hosts)
    assert 80 < hosts.faults.calls <= MOST_CALLS, hosts.faults.calls


@settings(deadline=None)
@given(
    at=st.integers(1, MOST_CALLS),
    error=failures,
    once=st.booleans(),
    reporting=st.booleans(),
    persist=st.booleans(),
)
def test_whatever_step_fails_or_is_killed_an_undo_puts_the_guest_back(
    *, at: int, error: BaseException, once: bool, reporting: bool, persist: bool
) -> None:
    hosts = TwoHosts(faults=Faults(at=at, error=error, once=once))
    hosts.guest(
        hardware=Hardware(
            balloon=True, agent=True, agent_connected=True, free_page_reporting=reporting
        )
    )
    wish = MigrateWish(
        options=MigrateOptions(persist_destination=persist), prepare=Options(timeout_seconds=20)
    )
    report = None
    with contextlib.suppress(HibprepError, Killed):
        report = moved(hosts, wish)
    hosts.faults.another_process()
    if report is not None and not report.left and report.where is not Where.UNKNOWN:
        # it says that nothing is left to be done, and so it has to be
        hosts.assert_as_before()
    for host in (hosts.a, hosts.b):
        for undone in undo_all(host, hosts.means(pid=2)):
            assert undone.ending is UndoEnding.DONE, undone
    hosts.assert_as_before()
