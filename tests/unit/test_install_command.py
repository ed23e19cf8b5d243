# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep install` and `hibprep uninstall` as they are typed, and the pages that they put."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep import __version__, cli
from hibprep.cli import common
from hibprep.cli.install import generated
from hibprep.config import Config
from hibprep.install import carry, roff
from hibprep.install import changes as changing
from hibprep.install.manifest import RESOURCES
from hibprep.settings_notices import OnSettings

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def answer(capsys: Capture) -> dict[str, list[dict[str, str]]]:
    out, err = capsys.readouterr()
    assert err == ""
    found: dict[str, list[dict[str, str]]] = json.loads(out)
    return found


def test_install_and_uninstall(root: Path, capsys: Capture) -> None:
    assert cli.run(["install", "--json"]) == 0
    files = answer(capsys)["files"]
    assert {each["action"] for each in files} == {"write"}
    for each in files:
        assert (root / each["path"].lstrip("/")).is_file()
    assert cli.run(["uninstall", "--json"]) == 0
    assert {each["action"] for each in answer(capsys)["files"]} == {"remove"}
    assert list(root.iterdir()) == []


def test_every_file_is_told(root: Path, capsys: Capture) -> None:
    assert cli.run(["install"]) == 0
    out = capsys.readouterr().out
    for path in root.rglob("*"):
        if path.is_file() and path.name != "installed.json":
            assert re.search(rf"wrote +/{path.relative_to(root)}$", out, re.MULTILINE)
    assert f"systemctl --root={root} enable hibprep.service" in out


def test_what_is_kept_is_told(root: Path, capsys: Capture) -> None:
    cli.run(["install"])
    config = root / "etc/hibprep/hibprep.toml"
    config.write_text("[history]\nkeep = 5\n")
    unit = root / "usr/lib/systemd/system/hibprep.service"
    unit.unlink()
    unit.symlink_to("/dev/null")
    capsys.readouterr()
    assert cli.run(["install"]) == 3
    out = capsys.readouterr().out
    assert out.startswith("0 files changed, 1 kept that is not ours to change.")
    assert "in the way: a symbolic link" in out
    assert "changed since it was put; nothing is new in ours" in out
    assert cli.run(["uninstall"]) == 3
    assert config.read_text() == "[history]\nkeep = 5\n"
    assert unit.is_symlink()


def test_extras_by_name(root: Path, capsys: Capture) -> None:
    assert cli.run(["install", "--with", "logind-delay"]) == 0
    assert "InhibitDelayMaxSec=" in (root / "etc/systemd/logind.conf.d/hibprep.conf").read_text()
    capsys.readouterr()
    assert cli.run(["install", "--with", "sugar"]) == 2
    assert "'logind-delay'" in capsys.readouterr().err


def test_a_wrong_configuration_stops_an_installation_and_no_removal(
    root: Path, capsys: Capture
) -> None:
    cli.run(["install"])
    (root / "etc/hibprep/hibprep.toml.d").mkdir()
    (root / "etc/hibprep/hibprep.toml.d/a.toml").write_text("[history]\nkeep = 0\n")
    capsys.readouterr()
    assert cli.run(["install"]) == 2
    assert "history.keep = 0" in capsys.readouterr().err
    assert cli.run(["uninstall"]) == 0


def test_only_root_installs_here(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv(common.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(carry, "install", None)
    monkeypatch.setattr(carry, "uninstall", None)
    for command in ("install", "uninstall"):
        assert cli.run([command]) == 4
        assert capsys.readouterr().err == f"hibprep: must be root: run sudo hibprep {command}\n"


def test_enabling_runs_what_is_offered_otherwise(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...]) -> str:
        ran.append(argv)
        return "Unit is masked"

    monkeypatch.setattr(changing.install, "__kwdefaults__", None)
    monkeypatch.setattr(changing.install, "__defaults__", (run,))
    assert cli.run(["install", "--enable", "--dry-run"]) == 0
    assert "Would be run:" in capsys.readouterr().out
    assert not ran
    assert cli.run(["install", "--enable"]) == 3
    assert ran == [("systemctl", f"--root={root}", "enable", "hibprep.service")]
    assert "FAILED: Unit is masked" in capsys.readouterr().out


# --- man pages ----------------------------------------------------------------------------------


REQUESTS = {
    *(".TH", ".SH", ".SS", ".PP", ".TP", ".TQ"),
    *(".B", ".I", ".BR", ".RI", ".br", ".nh", ".ad", '.\\"'),
}


def plain(page: str) -> str:
    """The words of a page, without its markup."""
    return re.sub(r"\\f[BIR]", "", page).replace(r"\-", "-").replace(r"\(aq", "'")


def all_commands(group: click.Group, path: str = "hibprep") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found.update(all_commands(command, f"{path} {name}"))
        else:
            found[f"{path} {name}"] = command
    return found


def test_every_command_and_option_is_in_the_manual() -> None:
    page = plain(generated()["hibprep.8"])
    assert f'"hibprep {__version__}"' in page
    starts = re.compile(r'^\.S[SH] "?', re.MULTILINE)
    sections = {part.split('"')[0].strip(): part for part in starts.split(page)[1:]}
    everywhere = {option for parameter in cli.cli.params for option in parameter.opts}
    for path, command in all_commands(cli.cli).items():
        part = next(
            part
            for name, part in sections.items()
            if name.startswith("hibprep ") and (name == path or name.startswith(f"{path} "))
        )
        own = {option for each in command.params for option in each.opts if option[0] == "-"}
        told = set(re.findall(r"^(--[a-z0-9-]+)", part, re.MULTILINE))
        assert told == own - everywhere - {"--help", "-h"}, path


def test_what_every_command_takes_is_told_once() -> None:
    page = plain(generated()["hibprep.8"])
    for option in ("--config", "--root", "--version", "--help"):
        assert len(re.findall(rf"^(?:-h, )?{option}\b", page, re.MULTILINE)) == 1, option


def test_every_setting_is_in_the_manual() -> None:
    page = plain(generated()["hibprep.toml.5"]).replace(r"\(dq", '"')
    for name, declared in Config.model_fields.items():
        section = declared.alias or name
        settings = OnSettings if section == "on" else declared.annotation
        assert settings is not None
        heading = f"[[{section}]]" if section == "on" else f"[{section}]"
        part = page.split(f'.SS "{heading}"', 1)[1].split(".SS", 1)[0]
        for key in settings.model_fields:
            assert re.search(rf"^{key} = .+$", part, re.MULTILINE), f"{section}.{key}"


def test_no_mark_is_left_in_a_page() -> None:
    for name in ("hibprep.8", "hibprep.toml.5"):
        assert re.findall(r"@[a-z]+@", (RESOURCES / "man" / name).read_text())
        page = generated()[name]
        assert not re.findall(r"@[a-z]+@", page)
        requests = {line.split(" ", 1)[0] for line in page.splitlines() if line[:1] in (".", "'")}
        assert requests <= REQUESTS


@given(st.text())
def test_no_text_becomes_a_request(text: str) -> None:
    for line in roff.escape(text).split("\n"):
        assert not line.startswith((".", "'"))
    unknown = re.sub(r"\\(\(..|\(->|e|-|&)", "", roff.escape(text))
    assert "\\" not in unknown
