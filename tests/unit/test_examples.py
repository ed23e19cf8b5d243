# SPDX-License-Identifier: LGPL-2.1-or-later
"""What examples/ and the page on clouds tell people to write: it parses, hibprep takes it, systemd
takes it, and the figures, commands and files that it names are there."""

from __future__ import annotations

import configparser
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import hibprep
from hibprep.cli import cli
from hibprep.config import ConfigErrors, load
from hibprep.metrics import render
from hibprep.status import NoticeStatus
from tests.fakes.host import STATUS
from tests.unit.test_docs import anchors, check, commands

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "examples"
FILES = {
    path.relative_to(EXAMPLES).as_posix(): path
    for path in sorted(EXAMPLES.rglob("*"))
    if path.is_file()
}
PAGES = {"docs/cloud.md": TOP / "docs/cloud.md", "README.md": EXAMPLES / "README.md"}
USER_DATA = FILES["cloud-init/user-data.yaml"]
IMAGE = FILES["packer/hibprep.pkr.hcl"]
ALERTS = FILES["prometheus/alerts.yaml"]
UNIT_SECONDS = 60.0

_TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_METRIC = re.compile(r"\bhibprep_[a-z_]+\b")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"^\s*(hibprep [^|\n]*)", re.MULTILINE)


def names(ending: str) -> list[str]:
    return [name for name in FILES if name.endswith(ending)]


def written_files() -> dict[str, str]:
    """What the user-data has cloud-init write, by its path."""
    document = yaml.safe_load(USER_DATA.read_text())
    return {each["path"]: each["content"] for each in document["write_files"]}


def configurations() -> Iterator[tuple[str, str]]:
    """Every piece of a configuration of hibprep, and where it is from."""
    for name in names(".toml"):
        yield name, FILES[name].read_text()
    for path, content in written_files().items():
        if path.startswith("/etc/hibprep/"):
            yield f"{USER_DATA.name} {path}", content
    for name, page in PAGES.items():
        for number, block in enumerate(_TOML.findall(page.read_text()), start=1):
            yield f"{name} {number}", block


CONFIGURATIONS = dict(configurations())


def units() -> dict[str, str]:
    """Units and drop-ins by their path below /etc/systemd/system."""
    found = {
        path.removeprefix("/etc/systemd/system/"): content
        for path, content in written_files().items()
        if path.startswith("/etc/systemd/system/")
    }
    for ending in (".conf", ".service", ".swap"):
        for name in names(ending):
            folder, _, rest = name.partition("/")
            assert folder
            found[rest] = FILES[name].read_text()
    return found


# --- hibprep's own --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_is_valid(name: str, tmp_path: Path) -> None:
    file = tmp_path / "hibprep.toml"
    file.write_text(CONFIGURATIONS[name])
    load("/nowhere", str(file))


def test_a_wrong_configuration_would_be_noticed(tmp_path: Path) -> None:
    file = tmp_path / "hibprep.toml"
    file.write_text('[[on]]\nnotice = ["stop"]\ndo = "hibernat"\n')
    with pytest.raises(ConfigErrors):
        load("/nowhere", str(file))


def test_there_are_configurations_of_every_kind() -> None:
    text = "\n".join(CONFIGURATIONS.values())
    for deed in ("prepare", "hibernate", "run", "aside", "acknowledge", "webhook"):
        assert f'do = "{deed}"' in text


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_can_be_typed(page: str) -> None:
    for words in commands(PAGES[page].read_text(), "hibprep"):
        check(words, cli)


@pytest.mark.parametrize("file", [USER_DATA, IMAGE, FILES["packer/hibprep-swap.service"]])
def test_every_command_of_an_example_can_be_typed(file: Path) -> None:
    text = re.sub(r'^(\s*)"|^ExecStart=/usr/bin/', r"\1", file.read_text(), flags=re.MULTILINE)
    found = [line.rstrip('", ').split()[1:] for line in _COMMAND.findall(text)]
    assert found
    for words in found:
        check(words, cli)


def metrics_there_are() -> set[str]:
    notice = NoticeStatus(kind="stop", source="aws", id="1", seconds_left=112.5, progress="at work")
    status = dataclasses.replace(STATUS, notices=(notice,), notices_total=1)
    return {
        sample.name
        for family in text_string_to_metric_families(render(status))
        for sample in family.samples
    }


@pytest.mark.parametrize("name", [*names(".yaml"), *PAGES])
def test_every_figure_is_there(name: str) -> None:
    text = (PAGES.get(name) or FILES[name]).read_text()
    assert set(_METRIC.findall(text)) <= metrics_there_are()


# --- others' formats ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_licence_is_on_top(name: str) -> None:
    lines = FILES[name].read_text().splitlines()[:2]
    assert any("SPDX-License-Identifier: LGPL-2.1-or-later" in line for line in lines)


def test_the_user_data_is_read_by_cloud_init() -> None:
    text = USER_DATA.read_text()
    assert text.startswith("#cloud-config\n")  # else it is no cloud-config
    document = yaml.safe_load(text)
    assert set(document) == {"write_files", "runcmd", "power_state"}
    for each in document["write_files"]:
        assert set(each) == {"path", "permissions", "content"}
        assert re.fullmatch(r"0[0-7]{3}", each["permissions"])
        assert each["content"].endswith("\n")
    # a list is run without a shell
    assert all(isinstance(command, list) for command in document["runcmd"])


def test_the_script_of_the_user_data_is_one() -> None:
    ((path,),) = yaml.safe_load(USER_DATA.read_text())["runcmd"]
    script = written_files()[path]
    assert script.startswith("#!/bin/sh\nset -eu\n")
    done = subprocess.run(
        ["sh", "-n"], input=script, text=True, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def image() -> dict[str, Any]:
    found: dict[str, Any] = hcl2.loads(IMAGE.read_text())
    return found


def provisioners(kind: str) -> list[dict[str, Any]]:
    """The blocks of that kind. Versions of the library differ in whether labels keep their
    quotes."""
    (build,) = image()["build"]
    return [
        block
        for each in build["provisioner"]
        for label, block in each.items()
        if label.strip('"') == kind
    ]


def test_the_steps_of_the_image_are_read_by_packer() -> None:
    assert {"packer", "variable", "source", "build"} <= set(image())
    shells = provisioners("shell")
    assert len(shells) == 2
    for shell in shells:
        assert "sudo" in shell["execute_command"]
        script = "\n".join(line.strip('"') for line in shell["inline"])
        done = subprocess.run(
            ["sh", "-n"], input=script, text=True, capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_files_of_the_image_are_there() -> None:
    text = IMAGE.read_text()
    named = re.findall(r"\$\{path\.root\}/([\w./-]+)", text)
    assert named
    for name in named:
        assert (IMAGE.parent / name).is_file()
        assert f"/tmp/{name}" in text  # noqa: S108 - of the machine that the image is made of


def test_the_alerts_are_read_by_prometheus() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Hibprep[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))


def test_the_scrape_configuration_is_read_by_prometheus() -> None:
    jobs = yaml.safe_load(FILES["prometheus/scrape.yaml"].read_text())["scrape_configs"]
    assert {job["job_name"] for job in jobs} == {"node", "hibprep"}


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", units())
def test_every_unit_has_sections(path: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read_string(units()[path])
    assert parser.sections()
    assert set(parser.sections()) <= {"Unit", "Service", "Slice", "Swap", "Install"}


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    brought = Path(hibprep.__file__).parent / "resources" / "hibprep.service"
    # a program that is there: systemd looks for it
    whole = {"hibprep.service": brought.read_text(), **units()}
    for path, text in whole.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(re.sub(r"(?m)^(Exec\w+)=/usr/bin/hibprep\b", r"\1=/bin/true", text))
    files = [str(tmp_path / path) for path in whole if "/" not in path]
    done = subprocess.run(
        [program, "verify", "--man=no", *files],
        text=True,
        capture_output=True,
        timeout=UNIT_SECONDS,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert told == []
    assert done.returncode == 0, done.stderr


# --- the page -------------------------------------------------------------------------------------


def test_every_link_leads_somewhere() -> None:
    for link in _LINK.findall((EXAMPLES / "README.md").read_text()):
        path, _, anchor = link.partition("#")
        target = EXAMPLES / path if path else EXAMPLES / "README.md"
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_every_folder_is_on_the_page() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for name in FILES:
        folder = name.partition("/")[0]
        assert f"]({folder}/" in text or folder == "README.md"
