# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's hook, run by a real libvirtd, with a real daemon behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.lab.rig import Rig, own
from bench.lab.rig_host import RigHost
from hibprep.errors import ExitCode
from tests.libvirt.checks import CACHE_MIB, assert_as_before, fill_cache, recorded
from tests.libvirt.commands import guest_command
from tests.libvirt.hooks import Witness, hooked, ours, restarted
from tests.libvirt.quiet_libvirt import QuietLibvirt
from tests.libvirt.rig_daemon import HEARS, RigDaemon
from tests.waiting import until

if TYPE_CHECKING:
    from tests.libvirt.conftest import NewGuest
    from tests.libvirt.rig_guest import RigGuest

MIB = 1 << 20
# a guest that is still coming when the hook tells of it is looked at again after half a minute
BACK_SECONDS = 120.0
COMES_IN = ["migrate", "prepare", "start", "started"]
IS_RESTORED = ["restore", "prepare", "start", "started"]
HAS_ENDED = ["stopped", "release"]


def prepare(guest: RigGuest) -> None:
    """As somebody who then has another program move it."""
    ended = guest_command(guest.host, "prepare", guest.name)
    # partly: it has come to need a little more meanwhile
    assert ended.code in (ExitCode.DONE, ExitCode.PARTLY), str(ended)
    assert recorded(guest)


def until_put_back(guest: RigGuest, full: int) -> None:
    until(lambda: not recorded(guest), "the record is removed", BACK_SECONDS, pause_seconds=0.5)
    assert_as_before(guest, full)


@contextmanager
def without_complaints(host: RigHost) -> Iterator[None]:
    """libvirtd there has nothing to say of hooks in the block."""
    begin = len(host.log.read_text())
    yield
    said = host.log.read_text()[begin:].splitlines()
    complaints = [line for line in said if "hook" in line.lower()]
    assert complaints == []


def asking(command: list[str], **more: object) -> str:
    """The configuration of a daemon that asks the source so."""
    lines = {"command": command, "sources": ["*=host-a"], "seconds": 120} | more
    return "[incoming]\n" + "".join(
        f"{name} = {json.dumps(value)}\n" for name, value in lines.items()
    )


def noting(folder: Path) -> tuple[list[str], Path]:
    """A command that notes what it is called with, and where."""
    note, script = folder / "asked", folder / "ask"
    note.write_text("")
    own(note)
    script.write_text(f'#!/bin/sh\necho "$@" >>{note}\n')
    script.chmod(0o755)
    return [str(script), "{uuid}", "{name}", "{source}"], note


def test_what_the_hook_alone_leads_to(guest: RigGuest, rig: Rig) -> None:
    full = guest.actual_bytes()
    host, witness = rig.b, Witness(rig.b)
    command, note = noting(host.folder)
    quiet = QuietLibvirt(host.folder / "quiet.sock", host.socket_path)
    daemon = RigDaemon(host, uri=quiet.uri, more=asking(["/bin/false"], refuse=True))
    hooks = {"50-hibprep": ours(host, daemon.control), **witness.hooks}
    with quiet, hooked(host, hooks), daemon:
        prepare(guest)
        is_refused_where_that_is_wanted(guest, host, daemon)
        assert witness.calls(guest.name) == ["migrate"]
        daemon.configure(asking(command))
        daemon.reload()
        with without_complaints(host):
            witness.forget()
            guest.move(host)
            assert note.read_text() == f"{guest.domain.UUIDString()} {guest.name} host-a\n"
            until_put_back(guest, full)
            assert witness.calls(guest.name) == COMES_IN
        with without_complaints(host):
            witness.forget()
            is_restored(guest, full)
            assert witness.calls(guest.name) == [*HAS_ENDED, *IS_RESTORED]
        witness.forget()
        restarted(host)
        until(lambda: witness.calls(guest.name) == ["reconnect"], "libvirt has called it")
        assert guest.domain.isActive()  # another exit code than 0 would have ended it
        # as it does when libvirt is back, it looks at all guests: not at what comes now
        daemon.wait_for(lambda: daemon.log.count(HEARS) == 2, "it hears libvirt again")
        with without_complaints(host):
            witness.forget()
            its_record_is_closed(guest)
            assert witness.calls(guest.name) == HAS_ENDED
        assert quiet.kept_back > 0  # nobody but the hook has told of anything
        print(daemon.log)  # noqa: T201
        assert note.read_text().count("\n") == 1


def is_refused_where_that_is_wanted(guest: RigGuest, host: RigHost, daemon: RigDaemon) -> None:
    import libvirt  # noqa: PLC0415 - where it lacks, the fixtures say so

    why = f"hibprep: {guest.name} could not be prepared on its source: /bin/false ended with exit"
    with pytest.raises(libvirt.libvirtError, match=why):
        guest.move(host)
    assert guest.domain.isActive()
    assert guest.domains_on(host) == []
    assert f"{guest.name} comes in without having been prepared" in daemon.log


def is_restored(guest: RigGuest, full: int) -> None:
    """Prepared and saved here, by others, and started again."""
    prepare(guest)
    guest.resident.close()
    guest.domain.managedSave()
    guest.domain.create()
    assert guest.arrived(guest.host) == guest.identity
    until_put_back(guest, full)


def its_record_is_closed(guest: RigGuest) -> None:
    """Prepared here, and shut off before anybody has moved it."""
    prepare(guest)
    guest.resident.close()
    guest.domain.destroy()
    until(lambda: not recorded(guest), "the record is removed", BACK_SECONDS, pause_seconds=0.5)


def test_without_a_daemon_it_is_in_nobodys_way(guest: RigGuest, rig: Rig) -> None:
    witness = Witness(rig.b)
    hook = ours(rig.b, rig.b.folder / "nobody")
    with hooked(rig.b, {"50-hibprep": hook, **witness.hooks}), without_complaints(rig.b):
        guest.move(rig.b)
        assert witness.calls(guest.name) == COMES_IN
        guest.move(rig.a)
        assert witness.calls(guest.name) == [*COMES_IN, *HAS_ENDED]


def test_the_source_trims_a_guest_that_is_on_its_way(new_guest: NewGuest, rig: Rig) -> None:
    import libvirt  # noqa: PLC0415 - where it lacks, the fixtures say so

    guest = new_guest(reporting=True)
    guest.wait_for_agent()
    fill_cache(guest)
    resident = guest.domain.memoryStats()["rss"] << 10
    trim = [
        sys.executable,
        "-B",
        "-m",
        "hibprep",
        "guest",
        "trim",
        "{uuid}",
        "--connect",
        rig.a.uri,
    ]
    daemon = RigDaemon(rig.b, more=asking(trim, refuse=True))
    hooks = {"50-hibprep": ours(rig.b, daemon.control)}
    with hooked(rig.b, hooks), daemon, without_complaints(rig.b):
        guest.move(rig.b)
        print(daemon.log)  # noqa: T201
        assert f"{guest.name} comes in, prepared by its source" in daemon.log
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        sent = guest.domain.jobStats(flags)["memory_processed"]
        print(f"sent {sent >> 20} MiB of {resident >> 20}")  # noqa: T201
        assert sent < resident - CACHE_MIB * MIB // 2
    assert not recorded(guest)
