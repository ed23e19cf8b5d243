# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook of vdsm: which command at which point, and that nothing ever fails a migration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hibprep.install.manifest import SOURCES, Extra
from tests.waiting import GENEROUS_SECONDS

HOOKS = Path(__file__).parents[2] / "hooks/vdsm"
UUID = "6f0c2a8e-6d0c-4c6a-9f1e-0b5a4f1d2c3b"
POINTS = {
    "before_vm_migrate_source": "prepare",
    "before_vm_hibernate": "prepare",
    "after_vm_migrate_destination": "undo",
    "after_vm_dehibernate": "undo",
}


class Host:
    """vdsm's folders; programs in the places of sudo and hibprep that note how they were run."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.log = top / "log"
        self.log.touch()
        self.program("hibprep", 'echo "hibprep $*" >>"$LOG"\necho something')
        self.program("sudo", 'echo "sudo $1" >>"$LOG"\nshift\nexec "$@"')

    def program(self, name: str, body: str) -> None:
        path = self.top / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def call(
        self, point: str, *arguments: str, uuid: str | None = UUID
    ) -> subprocess.CompletedProcess[str]:
        hook = self.top / "hooks" / point / "50_hibprep"
        hook.parent.mkdir(parents=True, exist_ok=True)
        text = (HOOKS / "hibprep").read_text()
        hook.write_text(text.replace("PROGRAM=/usr/bin/hibprep", f"PROGRAM={self.top}/bin/hibprep"))
        hook.chmod(0o755)
        xml = self.top / "domain.xml"
        xml.write_text("<domain/>")
        environment = {
            "PATH": f"{self.top}/bin:{os.environ['PATH']}",
            "LOG": str(self.log),
            "_hook_domxml": str(xml),
        }
        if uuid is not None:
            environment["vmId"] = uuid
        done = subprocess.run(
            [str(hook), *arguments],
            check=False, capture_output=True, text=True, env=environment, timeout=GENEROUS_SECONDS,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "")
        assert xml.read_text() == "<domain/>"
        return done

    @property
    def noted(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("point", POINTS)
def test_what_is_run_at_each_point(host: Host, point: str) -> None:
    host.call(point)
    assert host.noted == ["sudo -n", f"hibprep guest {POINTS[point]} --timeout 50 {UUID}"]


@pytest.mark.parametrize("point", ["after_vm_migrate_source", "before_vm_start", "hooks"])
def test_at_other_points_nothing_is(host: Host, point: str) -> None:
    host.call(point)
    assert host.noted == []


@pytest.mark.parametrize("uuid", [None, "", "x", "a b", "--config=/tmp/x", "$(id)", "../etc"])
def test_only_a_uuid_is_passed_on(host: Host, uuid: str | None) -> None:
    host.call("before_vm_hibernate", uuid=uuid)
    assert not any(line.startswith("hibprep") for line in host.noted)


@pytest.mark.parametrize(
    "arguments",
    [
        ("as-root", "uninstall", UUID),
        ("as-root", "prepare", "--all"),
        ("as-root", "prepare", f"{UUID} --config /tmp/x"),
        ("as-root",),
        ("prepare", UUID),
    ],
)
def test_as_root_it_does_two_things_alone(host: Host, arguments: tuple[str, ...]) -> None:
    host.call("elsewhere", *arguments)
    assert host.noted == []


@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$", "exit 2"])
def test_a_migration_never_fails_by_it(host: Host, body: str) -> None:
    host.program("hibprep", body)
    host.call("before_vm_migrate_source")
    host.program("sudo", body)
    host.call("before_vm_migrate_source")
    (host.top / "bin/hibprep").unlink()
    host.call("before_vm_migrate_source")


def test_one_that_hangs_is_ended(host: Host) -> None:
    host.program("hibprep", "exec sleep 600")
    host.program("timeout", 'echo "timeout $1 $2 $3" >>"$LOG"\nexit 124')
    host.call("before_vm_migrate_source")
    assert host.noted[-1] == "timeout -k 5 60"


def test_sudo_allows_what_is_put_and_no_more() -> None:
    places = {source.place for source in SOURCES if source.extra is Extra.VDSM and source.program}
    lines = (HOOKS / "sudoers").read_text().splitlines()
    allowed = {line.split()[0] for line in lines if line.lstrip().startswith("/")}
    assert allowed == places
    assert {place.split("/")[-2] for place in places} == set(POINTS)
