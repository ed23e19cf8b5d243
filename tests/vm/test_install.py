# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installing, upgrading and removing in clean guests: the Debian package with apt on Debian's own
libraries, and `hibprep install`. What is left is compared with what was there before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab import Guest, Result, build
from bench.lab.debian import build_deb, project_version
from tests.vm.conftest import GIB, Booted
from tests.vm.traces import traces

APT = ("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold")
CONFIG = "/etc/hibprep/hibprep.toml"
DROP_IN = "/etc/systemd/logind.conf.d/hibprep.conf"
UNITS = ("hibprep.service", "hibprep-presleep.service")
EXPOSURE = 3.0
# Until a package is purged, Debian remembers that its unit was enabled.
KEPT_BY_DEBIAN = (
    "/etc/hibprep",
    "/etc/systemd/system/multi-user.target.wants/hibprep.service",
    "/var/lib/hibprep",
    "/var/lib/systemd/deb-systemd-helper-",
)
SECONDS = 600


def say(guest: Guest, *argv: str, codes: tuple[int, ...] = (0,)) -> Result:
    """Run it, with what it said in the test's output."""
    result = guest.run(argv, timeout=SECONDS, env={"DEBIAN_FRONTEND": "noninteractive"})
    print(f"$ {' '.join(argv)}\n{result.text}{result.error_text}-> {result.returncode}")
    assert result.returncode in codes, (argv, result)
    return result


def state(guest: Guest, unit: str) -> tuple[str, str]:
    active = guest.run(["systemctl", "is-active", unit]).text.strip()
    return active, guest.run(["systemctl", "is-enabled", unit]).text.strip()


def main_pid(guest: Guest) -> str:
    return guest.run(["systemctl", "show", "-P", "MainPID", "hibprep.service"]).text.strip()


def has_file(guest: Guest, path: str) -> bool:
    return guest.run(["test", "-e", path]).returncode == 0


def units_are_well(guest: Guest, *, man: bool) -> None:
    """systemd finds nothing to say of the units, and the daemon's has little to attack."""
    verified = say(guest, "systemd-analyze", "verify", f"--man={'yes' if man else 'no'}", *UNITS)
    assert (verified.text + verified.error_text).strip() == ""
    judged = say(guest, "systemd-analyze", "security", "--no-pager", "hibprep.service").text
    found = re.search(r"Overall exposure level for hibprep.service: ([0-9.]+)", judged)
    assert found is not None
    assert float(found[1]) <= EXPOSURE


def daemon_works(guest: Guest) -> None:
    assert state(guest, "hibprep.service") == ("active", "enabled")
    assert state(guest, "hibprep-presleep.service") == ("inactive", "disabled")
    say(guest, "systemctl", "status", "--no-pager", "hibprep.service")
    assert Booted(guest, 0).hibprep("status")["running"]
    call = ("busctl", "--system", "introspect", "org.hibprep.Manager1", "/org/hibprep/Manager1")
    assert "SwapIn" in say(guest, *call).text
    # as anybody, who may look and not act
    nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    assert "SwapIn" in say(guest, *nobody, *call).text
    refused = say(guest, *nobody, "busctl", "call", *call[3:], *call[3:4], "Stop", codes=(1,))
    assert "denied" in refused.error_text


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The package, and a later one."""
    folder = tmp_path_factory.mktemp("deb")
    later = f"{project_version()}+later"
    return [build_deb(folder, print), build_deb(folder, print, version=later)]


@pytest.fixture
def debian() -> Iterator[Guest]:
    """A guest with Debian's libraries and none of the lab's, in which packages bring manuals."""
    with Guest(build("packaged", print), memory_bytes=GIB) as guest:
        guest.start()
        for path in (
            "/opt/hibprep",
            "/usr/lib/python3/dist-packages/hibprep-lab.pth",
            "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        ):
            guest.run(["rm", "-r", path], check=True)
        yield guest


def apt_install(guest: Guest, package: Path) -> None:
    guest.put(package, f"/tmp/{package.name}")  # noqa: S108 - in the guest
    say(guest, *APT, "install", f"/tmp/{package.name}")  # noqa: S108
    guest.run(["rm", f"/tmp/{package.name}"], check=True)  # noqa: S108


def test_the_debian_package(debian: Guest, packages: list[Path]) -> None:
    first, later = packages
    before = traces(debian)
    apt_install(debian, first)
    daemon_works(debian)
    units_are_well(debian, man=True)
    assert say(debian, "dpkg", "-V", "hibprep").text == ""
    for page in ("hibprep", "hibprep.toml"):
        shown = say(debian, "man", "--warnings", page)
        assert shown.error_text == ""
        assert "SEE ALSO" in shown.text
    assert has_file(debian, "/usr/share/bash-completion/completions/hibprep")

    # beside the package only what was asked for is put, and its files are left to it
    done = Booted(debian, 0).hibprep("install", "--with", "logind-delay")
    assert [each["path"] for each in done["files"] if each["action"] != "same"] == [DROP_IN]

    # an upgrade keeps what the administrator has written, and restarts the daemon
    own = debian.read(CONFIG) + "\n# mine\n"
    debian.put(own.encode(), CONFIG)
    pid = main_pid(debian)
    apt_install(debian, later)
    assert main_pid(debian) not in {pid, "0"}
    daemon_works(debian)
    assert debian.read(CONFIG) == own
    assert has_file(debian, DROP_IN)

    # removed, only the configuration and what hibprep has kept are left
    say(debian, *APT, "remove", "hibprep")
    assert state(debian, "hibprep.service")[0] == "inactive"
    left = traces(debian).since(before)
    print(left)
    for line in left["files"]:
        path = line.removeprefix("+ ").split(" ", 1)[0]
        assert path.startswith(KEPT_BY_DEBIAN), line

    # installed again and purged, nothing is
    apt_install(debian, later)
    daemon_works(debian)
    say(debian, *APT, "purge", "hibprep")
    assert traces(debian).since(before) == {}


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_hibprep_install(wheel: Path, suite: str) -> None:
    with Guest(build(suite, print), memory_bytes=GIB) as guest:
        machine = Booted(guest, guest.start())
        guest.install(wheel)
        before = traces(guest)
        planned = machine.hibprep("install", "--dry-run")
        assert {each["action"] for each in planned["files"]} == {"write"}
        assert traces(guest).since(before) == {}

        say(guest, "hibprep", "install", "--enable", "--with", "logind-delay")
        daemon_works(guest)
        units_are_well(guest, man=False)
        assert "/usr/local/bin/hibprep" in guest.read("/usr/lib/systemd/system/hibprep.service")
        delay = say(guest, "busctl", "get-property", *LOGIND, "InhibitDelayMaxUSec").text
        assert delay.strip() == "t 20000000"

        # again, and as an upgrade: what was changed is kept, what was lost comes back
        again = machine.hibprep("install", "--enable")
        assert {each["action"] for each in again["files"]} == {"same"}
        guest.run(["rm", "/usr/lib/systemd/system-sleep/hibprep"], check=True)
        guest.put(b"[history]\nkeep = 5\n", CONFIG)
        pid = main_pid(guest)
        upgraded = machine.hibprep("install", "--enable")
        actions = {each["path"]: each["action"] for each in upgraded["files"]}
        assert actions["/usr/lib/systemd/system-sleep/hibprep"] == "write"
        assert actions[CONFIG] == "keep"
        assert main_pid(guest) not in {pid, "0"}

        # what was changed stays, then nothing does
        say(guest, "hibprep", "uninstall", "--purge", codes=(3,))
        left = traces(guest).since(before)
        assert {line.split(" ", 2)[1] for line in left.pop("files")} == {"/etc/hibprep", CONFIG}
        assert [line.rsplit(" ", 1)[1] for line in left.pop("settings")] == [CONFIG]
        assert left == {}
        guest.run(["rm", "-r", "/etc/hibprep"], check=True)
        say(guest, "hibprep", "install", "--enable")
        daemon_works(guest)
        say(guest, "hibprep", "uninstall", "--purge")
        assert traces(guest).since(before) == {}


LOGIND = (
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)
