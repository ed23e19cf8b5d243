# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest migrate --all`: a real host is emptied, but for a guest that the other one does
not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.lab.rig import Rig
from hibprep.errors import ExitCode
from tests.libvirt.checks import assert_as_before
from tests.libvirt.commands import guest_command
from tests.libvirt.hooks import hooked, refusing

if TYPE_CHECKING:
    from tests.libvirt.conftest import NewBareGuest, NewGuest

MIB = 1 << 20
WHY = "no room for it here"


def test_all_go_but_one_that_is_refused(
    new_guest: NewGuest, new_bare_guest: NewBareGuest, rig: Rig
) -> None:
    with hooked(rig.b, {"10-somebody": refusing("stays", WHY)}):
        goes, stays = (new_guest(name=name, memory_bytes=512 * MIB) for name in ("goes", "stays"))
        bare = new_bare_guest()
        full = goes.actual_bytes()
        ended = guest_command(
            rig.a,
            *("migrate", "--all", "--to", rig.b.uri, "--parallel", "2"),
            *("--persistent", "--undefine-source", "--overcommit", "--thorough"),
        )
        assert ended.code is ExitCode.PARTLY, str(ended)
        assert (ended.report["moved"], ended.report["failures"]) == (2, []), str(ended)
        found = {each["name"]: each for each in ended.report["reports"]}
        assert {name: each["where"] for name, each in found.items()} == {
            "bare": "destination",
            "goes": "destination",
            "stays": "source",
        }
        assert all(each["left"] == [] for each in found.values())
        # what nobody in it can be asked about is moved as it is
        assert found["bare"]["notes"][0].startswith("not prepared: ")
        assert found["goes"]["preparation"]["actual_bytes"] < full
        assert found["stays"]["preparation"]["actual_bytes"] < full
        assert found["stays"]["undone"]["ending"] == "undone"
        why = f"stays: a hook of libvirt on the destination refused it: {WHY}"
        assert found["stays"]["reason"].startswith(why)
        # two at a time, so a line for each new part, and one for what went wrong
        said = [line for line in ended.lines if why in line]
        assert said == [f"hibprep: {why}: see /etc/libvirt/hooks there"], str(ended)
        bare.host = rig.b
        assert bare.is_on(rig.b)
        assert not bare.is_on(rig.a)
        assert goes.arrived(rig.b) == goes.identity
        assert_as_before(goes, full)
        assert stays.arrived(rig.a) == stays.identity
        assert_as_before(stays, full)
        assert stays.domains_on(rig.b) == []
