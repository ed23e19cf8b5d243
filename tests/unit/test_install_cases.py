# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installing below a root, case by case."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hibprep.errors import HibprepError
from hibprep.install import record
from hibprep.install.changes import Wish, install
from hibprep.install.manifest import Extra
from hibprep.install.program import Program
from hibprep.install.steps import Action
from hibprep.kernel.root import KernelRoot

from .installing import FISH, ONE, PLACES, TWO, never, paths, put, take, tree


def test_every_file_of_an_empty_root(tmp_path: Path) -> None:
    done = put(tmp_path)
    assert paths(done, Action.WRITE) == set(PLACES)
    assert done.whole
    for path in PLACES:
        mode = stat.S_IMODE((tmp_path / path.lstrip("/")).stat().st_mode)
        assert mode == (0o755 if "system-sleep" in path else 0o644)
    state = tmp_path / "var/lib/hibprep"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "installed.json").stat().st_mode) == 0o600
    assert [command.argv for command in done.offered] == [
        ("systemctl", f"--root={tmp_path}", "enable", "hibprep.service")
    ]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        put(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "usr/share/man").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "etc/hibprep/hibprep.toml").stat().st_mode) == 0o644


def test_a_hook_that_was_switched_off_stays_so(tmp_path: Path) -> None:
    put(tmp_path)
    hook = tmp_path / "usr/lib/systemd/system-sleep/hibprep"
    hook.chmod(0o644)
    root = KernelRoot(tmp_path)
    done = install(root, Program("/opt/x/hibprep"), ONE, Wish(), run=never)
    assert "/usr/lib/systemd/system-sleep/hibprep" in paths(done, Action.REPLACE)
    assert "/opt/x/hibprep" in hook.read_text()
    assert stat.S_IMODE(hook.stat().st_mode) == 0o644


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = put(tmp_path, dry_run=True)
    assert paths(done, Action.WRITE) == set(PLACES)
    assert tree(tmp_path) == {}
    put(tmp_path)
    was = tree(tmp_path)
    assert paths(take(tmp_path, dry_run=True), Action.REMOVE) == set(PLACES)
    assert tree(tmp_path) == was


def test_for_packages_there_is_no_record(tmp_path: Path) -> None:
    done = put(tmp_path, recording=False)
    assert done.offered == ()
    assert not (tmp_path / "var").exists()
    assert paths(take(tmp_path), *Action) == set()


def test_what_belongs_to_the_package_is_left_to_it(tmp_path: Path) -> None:
    put(tmp_path)
    listed = tmp_path / "var/lib/dpkg/info/hibprep.list"
    listed.parent.mkdir(parents=True)
    names = [f"{path}.gz" if "/man/" in path else path for path in PLACES]
    listed.write_text("\n".join(["/.", *names]) + "\n")
    was = tree(tmp_path)
    # the package came after the installation by hand: neither changes nor takes what is its own
    again = put(tmp_path, TWO)
    assert paths(again, Action.SAME, Action.GONE) == set(PLACES)
    take(tmp_path)
    kept = {name for name in was if not name.startswith("var/lib/hibprep")}
    assert set(tree(tmp_path)) == kept


def test_an_extra_is_kept_up_once_it_was_asked_for(tmp_path: Path) -> None:
    path = "/etc/systemd/logind.conf.d/hibprep.conf"
    assert path not in paths(put(tmp_path), *Action)
    assert path in paths(put(tmp_path, extras=frozenset({Extra.LOGIND_DELAY})), Action.WRITE)
    assert path in paths(put(tmp_path), Action.SAME)
    (tmp_path / path.lstrip("/")).unlink()
    assert path not in paths(put(tmp_path), Action.WRITE, Action.SAME)
    assert path not in paths(take(tmp_path), *Action)


HOOK = "/etc/libvirt/hooks/qemu.d/50-hibprep"
GUESTS = "/usr/lib/systemd/system/hibprep-guests.service"


@pytest.mark.parametrize("sign", ["usr/sbin/libvirtd", "usr/sbin/virtqemud"])
def test_libvirts_files_are_put_where_libvirt_is(tmp_path: Path, sign: str) -> None:
    assert not {HOOK, GUESTS} & paths(put(tmp_path), *Action)
    (tmp_path / sign).parent.mkdir(parents=True)
    (tmp_path / sign).touch()
    assert {HOOK, GUESTS} <= paths(put(tmp_path), Action.WRITE)
    hook = tmp_path / HOOK.lstrip("/")
    assert stat.S_IMODE(hook.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / GUESTS.lstrip("/")).stat().st_mode) == 0o644
    # and they stay up to date when libvirt is gone, until they are taken away
    (tmp_path / sign).unlink()
    assert {HOOK, GUESTS} <= paths(put(tmp_path), Action.SAME)
    take(tmp_path)
    assert not hook.exists()


def test_vdsms_hooks_are_put_only_by_name(tmp_path: Path) -> None:
    hooks = tmp_path / "usr/libexec/vdsm/hooks"
    hooks.mkdir(parents=True)
    assert not any("vdsm" in path for path in paths(put(tmp_path), *Action))
    done = put(tmp_path, extras=frozenset({Extra.VDSM}))
    mine = {path for path in paths(done, Action.WRITE) if "vdsm" in path or "sudoers" in path}
    assert len(mine) == 5
    for place in hooks.glob("*/50_hibprep"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o755
        assert f"/usr/libexec/vdsm/hooks/{place.parent.name}/50_hibprep" in mine
    take(tmp_path)
    assert list(hooks.iterdir()) == []


def test_a_directory_that_leads_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    outside, top = tmp_path / "outside", tmp_path / "top"
    outside.mkdir()
    (top / "etc").mkdir(parents=True)
    (top / "etc/hibprep").symlink_to(outside)
    done = put(top)
    assert "/etc/hibprep/hibprep.toml" in paths(done, Action.KEEP)
    assert not done.whole
    assert list(outside.iterdir()) == []


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/systemd/system-sleep").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    was = tree(tmp_path)
    assert put(tmp_path).whole
    take(tmp_path)
    assert tree(tmp_path) == was


def test_directories_are_remembered_when_no_file_is_left(tmp_path: Path) -> None:
    """The only file that could be put is no longer part of the next version."""
    for path in PLACES:
        if path != FISH:
            (tmp_path / path.lstrip("/")).mkdir(parents=True)
    was = tree(tmp_path)
    assert paths(put(tmp_path), Action.WRITE) == {FISH}
    assert paths(put(tmp_path, TWO), Action.REMOVE) == {FISH}
    take(tmp_path)
    assert tree(tmp_path) == was


def test_purge_takes_what_hibprep_has_kept(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "var/lib/hibprep/history.jsonl").write_text("{}\n")
    (tmp_path / "run/hibprep").mkdir(parents=True)
    take(tmp_path)
    assert (tmp_path / "var/lib/hibprep/history.jsonl").exists()
    done = take(tmp_path, purge=True)
    assert done.notes == ("taken away: /var/lib/hibprep", "taken away: /run/hibprep")
    assert not (tmp_path / "var/lib/hibprep").exists()
    assert not (tmp_path / "run/hibprep").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "files": {}, "directories": []}',
        '{"version": 1, "files": {"etc/passwd": []}, "directories": []}',
        '{"version": 1, "files": {"/usr/../etc/passwd": ["x"]}, "directories": []}',
        '{"version": 1, "files": {}, "directories": [1]}',
        '{"version": 1, "files": [], "directories": []}',
    ],
)
def test_a_record_that_makes_no_sense_stops_it(tmp_path: Path, text: str) -> None:
    place = tmp_path / record.PATH.lstrip("/")
    place.parent.mkdir(parents=True)
    place.write_text(text)
    was = tree(tmp_path)
    for act in (put, take):
        with pytest.raises(HibprepError, match="move it away"):
            act(tmp_path)
    assert tree(tmp_path) == was
