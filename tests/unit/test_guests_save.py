# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.errors import ExitCode, HibprepError
from hibprep.guests.errors import (
    ConnectionFailedError,
    GuestError,
    NotRunningError,
    UnsupportedError,
)
from hibprep.guests.move_report import MoveReport, Where
from hibprep.guests.port import DomainState, Operation
from hibprep.guests.save import SaveWish, save
from hibprep.guests.undo import UndoEnding, undo_all
from hibprep.model import Ending
from tests.fakes.libvirt_host import FakeDomain, Faults, Killed
from tests.fakes.libvirt_memory import MIB

from .moving_guests import TwoHosts, until_aborted

MOST_CALLS = 90  # of a whole save; asserted below


def saved(hosts: TwoHosts, wish: SaveWish | None = None) -> MoveReport:
    here, _ = hosts.sides()
    return save("web", here, wish or SaveWish(), means=hosts.means(), tell=hosts.told.append)


def test_what_is_saved_is_small_and_has_its_memory_back_after_its_start() -> None:
    hosts = TwoHosts()
    guest = hosts.guest()
    report = saved(hosts)
    assert guest.saved
    assert report.where is Where.FILE
    assert report.exit_code is ExitCode.DONE
    assert report.job.operation is Operation.SAVE
    assert report.unprepared is not None
    assert report.job.memory_processed_bytes < report.unprepared.sent_bytes / 2
    assert "hibprep guest undo --connect fake://a/system web" in report.notes[-1]
    (undone,) = undo_all(hosts.a, hosts.means(pid=2))
    assert undone.ending is UndoEnding.LATER
    guest.start()
    assert hosts.is_small()
    undo_all(hosts.a, hosts.means(pid=3))
    hosts.assert_as_before()


def test_as_it_is() -> None:
    hosts = TwoHosts()
    hosts.guest()
    report = saved(hosts, SaveWish(prepare=None))
    assert report.job.memory_processed_bytes > 700 * MIB
    assert report.notes == ()
    assert "set_metadata" not in hosts.faults.names


def test_what_is_refused_before_changes_nothing() -> None:
    hosts = TwoHosts()
    guest = hosts.guest(persistent=False)
    with pytest.raises(UnsupportedError, match="web is transient"):
        saved(hosts)
    guest.state = DomainState.SHUT_OFF
    with pytest.raises(NotRunningError):
        saved(hosts)
    assert not {"set_metadata", "set_balloon", "managed_save"} & set(hosts.faults.names)


def test_ctrl_c_aborts_and_puts_back() -> None:
    hosts = TwoHosts()

    def press(domain: FakeDomain) -> None:
        hosts.interrupt()
        until_aborted(domain)

    hosts.guest().during = press
    report = saved(hosts)
    assert report.ending is Ending.INTERRUPTED
    assert report.exit_code is ExitCode.INTERRUPTED
    assert report.where is Where.SOURCE
    hosts.assert_as_before()


def test_a_full_disk() -> None:
    hosts = TwoHosts()

    def full(_domain: FakeDomain) -> None:
        raise GuestError("web: operation failed: No space left on device")

    hosts.guest().during = full
    report = saved(hosts)
    assert report.ending is Ending.FAILED
    assert "No space left" in report.reason
    assert report.exit_code is ExitCode.FAILED
    hosts.assert_as_before()


def test_libvirtd_dies_and_stays_away() -> None:
    hosts = TwoHosts()

    def die(domain: FakeDomain) -> None:
        hosts.cut_off(domain.host)
        raise ConnectionFailedError("fake://a/system: the socket is closed")

    hosts.guest().during = die
    report = saved(hosts)
    assert report.where is Where.UNKNOWN
    assert report.exit_code is ExitCode.PARTLY
    assert report.left[0].startswith("hibprep guest undo --connect fake://a/system web (")
    hosts.back(hosts.a)
    undo_all(hosts.a, hosts.means(pid=2))
    hosts.assert_as_before()


def test_it_is_saved_although_nobody_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = TwoHosts()
    hosts.guest()
    really = FakeDomain.managed_save

    def lost(self: FakeDomain, *, bypass_cache: bool = False) -> None:
        really(self, bypass_cache=bypass_cache)
        raise ConnectionFailedError("fake://a/system: the socket is closed")

    monkeypatch.setattr(FakeDomain, "managed_save", lost)
    report = saved(hosts)
    assert report.where is Where.FILE
    assert report.exit_code is ExitCode.DONE
    assert any("it is saved, although" in note for note in report.notes)


def test_how_many_calls_a_save_makes() -> None:
    hosts = TwoHosts()
    hosts.guest()
    saved(hosts)
    assert 50 < hosts.faults.calls <= MOST_CALLS, hosts.faults.calls


@settings(deadline=None)
@given(
    at=st.integers(1, MOST_CALLS),
    error=st.sampled_from(
        [
            GuestError("web: operation failed"),
            ConnectionFailedError("fake://a/system: the socket is closed"),
            Killed(),
        ]
    ),
    once=st.booleans(),
)
def test_whatever_step_fails_or_is_killed_an_undo_puts_the_guest_back(
    *, at: int, error: BaseException, once: bool
) -> None:
    hosts = TwoHosts(faults=Faults(at=at, error=error, once=once))
    guest = hosts.guest()
    with contextlib.suppress(HibprepError, Killed):
        saved(hosts)
    hosts.faults.another_process()
    if not guest.active:
        assert guest.saved
        guest.start()
    for undone in undo_all(hosts.a, hosts.means(pid=2)):
        assert undone.ending is UndoEnding.DONE, undone
    hosts.assert_as_before()
