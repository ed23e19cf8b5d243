# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is put where, with which program in it, and what systemd is told."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from hibprep.install import manifest, running, systemd
from hibprep.install.layout import Layout, find_layout
from hibprep.install.manifest import SOURCES, Extra, items, source_file
from hibprep.install.program import Program
from hibprep.install.steps import Action, Plan, Step
from hibprep.install.systemd import Manager
from hibprep.kernel.root import KernelRoot

TOP = Path(__file__).parents[2]


# --- the manifest --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=[source.name for source in SOURCES])
def test_every_source_is_there(source: manifest.Source) -> None:
    file = source_file(source.name)
    assert file is not None
    text = file.read_text()
    assert "SPDX-License-Identifier: LGPL-2.1-or-later" in text
    program = Program("/opt/other/bin/hibprep", "/opt/other/bin/python3", "/opt/other/hibprep")
    assert (program.adapt(text) != text) is source.adapted


def test_nothing_is_left_out() -> None:
    """Every resource is put somewhere, or is what something is made from."""
    listed = {source.name for source in SOURCES}
    resources = {
        path.relative_to(manifest.RESOURCES).as_posix()
        for path in manifest.RESOURCES.rglob("*")
        if path.is_file()
    }
    assert {name for name in resources if not name.startswith(("man/", "hooks/"))} <= listed
    assert {name for name in resources if name.startswith("man/")} == {
        f"man/{name}" for name in manifest.GENERATED if name[-1].isdigit()
    }
    hooks = {f"hooks/{path.relative_to(TOP / 'hooks')}" for path in (TOP / "hooks").rglob("*/*")}
    assert {name for name in hooks if "__pycache__" not in name} <= listed


def test_a_wheel_has_the_hooks_where_they_are_looked_for() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {"hibprep", "hooks"} <= set(wheel["only-include"])
    assert TOP / wheel["sources"]["hooks"] == manifest.RESOURCES / "hooks"


def test_the_hooks_of_a_wheel_go_before_a_checkout_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    monkeypatch.setattr(manifest, "_HOOKS", (own, other))
    name = "hooks/systemd-sleep/hibprep"
    assert source_file(name) is None
    for place in (other, own):
        (place / "systemd-sleep").mkdir(parents=True)
        (place / "systemd-sleep/hibprep").touch()
        assert source_file(name) == place / "systemd-sleep/hibprep"


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_HOOKS", ())
    found, missing = items(Layout(), Program(), {})
    assert missing == ("hooks/systemd-sleep/hibprep",)
    assert all("system-sleep" not in item.path for item in found)


def test_units_hooks_and_policy_can_be_read() -> None:
    program = Program("/opt/x/bin/hibprep", "/opt/x/bin/python3", "/opt/x/lib/hibprep")
    found, missing = items(Layout(), program, {}, frozenset(Extra))
    assert not missing
    by_path = {item.path: item for item in found}
    unit = by_path["/usr/lib/systemd/system/hibprep.service"].content.decode()
    assert "\nExecStart=/opt/x/bin/hibprep run\n" in unit
    hook = by_path["/usr/lib/systemd/system-sleep/hibprep"]
    lines = hook.content.decode().splitlines()
    assert lines[0].startswith("#!/opt/x/bin/python3 ")
    assert 'PROGRAM = "/opt/x/bin/hibprep"' in lines
    assert 'LIBRARY = "/opt/x/lib/hibprep"' in lines
    compile(hook.content, "hook", "exec")
    guests = by_path["/etc/libvirt/hooks/qemu.d/50-hibprep"].content.decode()
    assert "\nLIBRARY=/opt/x/lib/hibprep\n" in guests
    # neither the shell nor the Python that a virtual environment may take away with it
    assert guests.startswith("#!/bin/sh\n")
    assert "\nPYTHON=/usr/bin/python3\n" in guests
    drop_in = configparser.ConfigParser()
    drop_in.read_string(by_path["/etc/systemd/logind.conf.d/hibprep.conf"].content.decode())
    assert drop_in["Login"]["InhibitDelayMaxSec"] == "20"
    ET.fromstring(by_path["/usr/share/dbus-1/system.d/org.hibprep.Manager1.conf"].content)  # noqa: S314 - ours


# --- the layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], "/usr/lib/systemd"),
        (["usr/lib/systemd/systemd-sleep"], "/usr/lib/systemd"),
        (["lib/systemd/systemd"], "/lib/systemd"),
        (["lib/systemd/system-sleep/x", "usr/lib/systemd/boot/x"], "/lib/systemd"),
        (["lib/systemd/systemd", "usr/lib/systemd/systemd"], "/usr/lib/systemd"),
    ],
)
def test_where_systemd_is(tmp_path: Path, there: Iterable[str], expected: str) -> None:
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_layout(KernelRoot(tmp_path)).systemd == expected


def test_where_zsh_looks(tmp_path: Path) -> None:
    assert find_layout(KernelRoot(tmp_path)).zsh == "/usr/share/zsh/site-functions"
    (tmp_path / "usr/share/zsh/vendor-completions").mkdir(parents=True)
    assert find_layout(KernelRoot(tmp_path)).zsh == "/usr/share/zsh/vendor-completions"


# --- systemd -------------------------------------------------------------------------------------

UNIT = "/usr/lib/systemd/system/hibprep.service"
OTHER = "/usr/lib/systemd/system/hibprep-presleep.service"
POLICY = "/usr/share/dbus-1/system.d/org.hibprep.Manager1.conf"
DROP_IN = "/etc/systemd/logind.conf.d/hibprep.conf"
MAN = "/usr/share/man/man8/hibprep.8"
HOOK = "/etc/libvirt/hooks/qemu.d/50-hibprep"
RELOAD = "systemctl try-reload-or-restart libvirtd.service virtqemud.service"
HERE = Manager()
LINKED = Manager(enabled=frozenset({"hibprep.service"}))
ELSEWHERE = Manager(prefix="/mnt", running=False)
ELSEWHERE_LINKED = Manager("/mnt", running=False, enabled=frozenset({"hibprep.service"}))


def plan(action: Action, *paths: str) -> Plan:
    return Plan(tuple(Step(path, action) for path in paths), (), {}, ())


def told(commands: Iterable[systemd.Command]) -> list[str]:
    return [" ".join(command.argv) for command in commands]


@pytest.mark.parametrize(
    ("todo", "manager", "expected"),
    [
        (
            plan(Action.WRITE, UNIT, POLICY, DROP_IN),
            HERE,
            [
                "systemctl daemon-reload",
                "systemctl reload dbus.service",
                "systemctl kill --signal=HUP systemd-logind.service",
                "systemctl enable --now hibprep.service",
            ],
        ),
        (plan(Action.SAME, UNIT, POLICY), HERE, ["systemctl enable --now hibprep.service"]),
        (plan(Action.SAME, UNIT, POLICY), LINKED, []),
        (plan(Action.KEEP, UNIT), LINKED, []),
        (
            plan(Action.REPLACE, UNIT),
            LINKED,
            ["systemctl daemon-reload", "systemctl restart hibprep.service"],
        ),
        (
            plan(Action.WRITE, DROP_IN),
            LINKED,
            ["systemctl kill --signal=HUP systemd-logind.service"],
        ),
        (
            plan(Action.WRITE, HOOK),
            LINKED,
            [RELOAD, "systemctl restart hibprep.service"],
        ),
        (plan(Action.REPLACE, MAN), LINKED, ["systemctl restart hibprep.service"]),
        (plan(Action.WRITE, UNIT), ELSEWHERE, ["systemctl --root=/mnt enable hibprep.service"]),
        (plan(Action.REPLACE, UNIT), ELSEWHERE_LINKED, []),
    ],
)
def test_after_an_installation(todo: Plan, manager: Manager, expected: list[str]) -> None:
    assert told(systemd.after_install(todo, manager)) == expected


@pytest.mark.parametrize(
    ("todo", "manager", "before", "after"),
    [
        (
            plan(Action.REMOVE, OTHER, UNIT, POLICY),
            LINKED,
            [
                "systemctl disable --now hibprep-presleep.service hibprep.service",
                "systemctl reset-failed hibprep-presleep.service hibprep.service",
            ],
            ["systemctl daemon-reload", "systemctl reload dbus.service"],
        ),
        (plan(Action.KEEP, UNIT), LINKED, [], []),
        (
            plan(Action.REMOVE, DROP_IN),
            HERE,
            [],
            ["systemctl kill --signal=HUP systemd-logind.service"],
        ),
        (plan(Action.REMOVE, HOOK), HERE, [], [RELOAD]),
        (plan(Action.REMOVE, UNIT, OTHER), ELSEWHERE, [], []),
        (
            plan(Action.REMOVE, UNIT, OTHER),
            ELSEWHERE_LINKED,
            ["systemctl --root=/mnt disable hibprep.service"],
            [],
        ),
    ],
)
def test_around_a_removal(
    todo: Plan, manager: Manager, before: list[str], after: list[str]
) -> None:
    assert told(systemd.before_uninstall(todo, manager)) == before
    assert told(systemd.after_uninstall(todo, manager)) == after


def test_why_a_command_failed() -> None:
    assert running.run((sys.executable, "-c", "pass")) == ""
    assert running.run((sys.executable, "-c", "import sys; sys.exit('a\\nb')")) == "a b"
    assert running.run((sys.executable, "-c", "import sys; sys.exit(3)")) == "exit code 3"
    assert running.run(("/nowhere/systemctl",)) == "No such file or directory"


def test_a_command_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SECONDS", 0.1)
    assert "not done after" in running.run((sys.executable, "-c", "import time; time.sleep(60)"))


def test_all_are_run_and_only_what_matters_is_told() -> None:
    commands = [systemd.Command((name,), "why", name == "b") for name in "abc"]
    done = running.run_all(commands, with_=lambda argv: f"no {argv[0]}")
    assert [(each.argv, each.error) for each in done] == [
        (("a",), ""),
        (("b",), "no b"),
        (("c",), ""),
    ]


def test_shells_can_read_the_completions(tmp_path: Path) -> None:
    from hibprep.cli.install import generated  # noqa: PLC0415 - it imports every command

    texts = generated()
    subprocess.run(["bash", "-n"], input=texts["bash"].encode(), check=True, timeout=60)
    assert texts["zsh"].startswith("#compdef hibprep\n")
    for shell in ("bash", "zsh", "fish"):
        assert f"_HIBPREP_COMPLETE={shell}_complete" in texts[shell]
