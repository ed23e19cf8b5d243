# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import contextlib
import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import hibprep
from hibprep.cli.config import toml_lines
from hibprep.config import Config, ConfigErrors, load, schema
from hibprep.errors import ConfigError, ExitCode
from hibprep.idleness import IdlePolicy
from hibprep.laws import Law
from hibprep.model import BackendName, Limits, Rates, Stage, Target, TargetKind
from hibprep.noticerules import Deed, Rule
from hibprep.notices import NoticeKind, ProviderName
from hibprep.pace import PacePolicy
from hibprep.policy import Battery, Policy
from hibprep.policy import Kind as PolicyKind
from hibprep.settings_notices import NoticesSettings, OnSettings, parse_address
from hibprep.sizes import LARGEST_BYTES, parse_size

SHIPPED = Path(hibprep.__file__).parent / "resources" / "hibprep.toml"
DOCUMENTED = Path(__file__).parents[2] / "docs" / "configuration.md"


def write(root: Path, text: str, name: str = "hibprep.toml") -> Path:
    path = root / "etc" / "hibprep" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def errors(root: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigErrors) as caught:
        load(str(root))
    assert caught.value.exit_code is ExitCode.USAGE
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines


def settings() -> list[tuple[str, str]]:
    return [
        (section, key)
        for section, values in Config().model_dump(by_alias=True).items()
        for key in (OnSettings.model_fields if section == "on" else values)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512", 512),
        ("5B", 5),
        ("100k", 100 << 10),
        ("100M", 100 << 20),
        ("100Mi", 100 << 20),
        ("100MiB", 100 << 20),
        ("100MB", 100_000_000),
        (" 1.5 GiB ", 3 << 29),
        ("2 GB", 2_000_000_000),
        ("1T", 1 << 40),
        (4096, 4096),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "junk", "-1", "- 1", "-5G", "1.5", 1.5, True, None, "1..2M", "1_000", "１G", "5bit"),
        *("1e9", "nan", "inf", "max", "8EiB", str(LARGEST_BYTES + 1), "9" * 5000, "1G\n1G"),
    ],
)
def test_sizes_that_are_none(text: object) -> None:
    with pytest.raises(ValueError, match=r"give|is not") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= parse_size(text) <= LARGEST_BYTES


def test_no_file_is_the_defaults(tmp_path: Path) -> None:
    config = load(str(tmp_path))
    assert config == Config()
    assert config.limits() == Limits()
    assert config.target() == Target()
    assert config.rates() == {}


def test_the_shipped_file_shows_the_defaults() -> None:
    text = SHIPPED.read_text()
    assert load("/nowhere", str(SHIPPED)) == Config()
    shown = tomllib.loads(re.sub(r"(?m)^#(?=[a-z_]+ = |\[\[)", "", text))
    optional = {
        "size",
        "seconds",
        "daily_write",
        "older_than_seconds",
        "metrics_file",
        "metrics_port",
        "poll_seconds",
        "address",
        *Config().rates_section.model_dump(),
    }
    defaults = Config().model_dump(mode="json", by_alias=True)
    assert shown["on"][0].keys() == OnSettings.model_fields.keys()  # there is no default of a rule
    for section, key in settings():
        if section == "on":
            continue
        assert key in shown[section], f"{section}.{key} is not in {SHIPPED.name}"
        if key not in optional:
            assert shown[section][key] == defaults[section][key]


def test_every_setting_is_documented() -> None:
    text = DOCUMENTED.read_text()
    for section, key in settings():
        assert f"`{section}.{key}`" in text, f"{section}.{key} is not in {DOCUMENTED.name}"


def test_every_setting_has_an_effect(tmp_path: Path) -> None:
    rates = {key: 1234.0 for section, key in settings() if section == "rates"}
    rates |= {"compression_ratio": 0.25}
    assert set(rates) == {*Rates.__dataclass_fields__} - {"sources"}
    write(
        tmp_path,
        """
        target.kind = "within"
        target.seconds = 12
        [reclaim]
        stages = ["anon", "cache"]
        cold_age_seconds = 30
        timeout_seconds = 60
        swap_reserve_ratio = 0.7
        systemd_margin = 0.9
        pressure_limit_percent = 5
        chunk_seconds = 0.05
        backend = "memcg"
        [history]
        keep = 7
        [cgroups]
        protect = ["/system.slice/a.service"]
        cache_only = ["/system.slice/b.service"]
        cold_only = ["/user.slice"]
        first = ["/machine.slice"]
        [rates]
        """
        + "\n".join(f"{key} = {value}" for key, value in rates.items()),
    )
    config = load(str(tmp_path))
    assert config.target() == Target(TargetKind.WITHIN, seconds=12)
    assert config.limits() == Limits(
        stages=(Stage.CACHE, Stage.ANON),
        cold_age_seconds=30,
        swap_reserve_ratio=0.7,
        systemd_margin=0.9,
        backend=BackendName.MEMCG,
    )
    assert config.rates() == rates
    assert config.reclaim.timeout_seconds == 60
    assert config.reclaim.pressure_limit_percent == 5
    assert config.reclaim.chunk_seconds == 0.05
    assert config.history.keep == 7
    # what they come to is in test_rules.py
    assert config.cgroups.protect == ("/system.slice/a.service",)
    assert config.cgroups.cache_only == ("/system.slice/b.service",)
    assert config.cgroups.cold_only == ("/user.slice",)
    assert config.cgroups.first == ("/machine.slice",)
    write(tmp_path, 'target = {kind = "size", size = "2 GiB"}')
    assert load(str(tmp_path)).target() == Target(TargetKind.SIZE, 2 << 30)


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "[reclaim]\nchunk_seconds = 0.2\ncold_age_seconds = 20")
    write(tmp_path, "[reclaim]\nchunk_seconds = 0.4", "hibprep.toml.d/20.toml")
    write(tmp_path, "[reclaim]\nchunk_seconds = 0.3\n[history]\nkeep = 3", "hibprep.toml.d/10.toml")
    write(tmp_path, "not TOML", "hibprep.toml.d/10.toml.bak")
    config = load(str(tmp_path))
    assert config.reclaim.chunk_seconds == 0.4
    assert config.reclaim.cold_age_seconds == 20
    assert config.history.keep == 3


def test_a_given_file_replaces_the_others(tmp_path: Path) -> None:
    write(tmp_path, "[history]\nkeep = 3")
    other = tmp_path / "other.toml"
    other.write_text("[reclaim]\nchunk_seconds = 0.2")
    config = load(str(tmp_path), str(other))
    assert config.history.keep == 100
    assert config.reclaim.chunk_seconds == 0.2


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().history.keep = 3


def test_every_error_at_once_with_place_and_cure(tmp_path: Path) -> None:
    main = write(
        tmp_path, '[reclaim]\nbackend = "magic"\nchunk_second = 1\n[target]\nkind = "size"'
    )
    extra = write(tmp_path, "[reclaim]\nchunk_seconds = 3", "hibprep.toml.d/a.toml")
    broken = write(tmp_path, "x = = 1", "hibprep.toml.d/b.toml")
    lines = errors(tmp_path)
    assert lines == (
        f"{broken}: not TOML: Invalid value (at line 1, column 5)",
        f'{main}: target: kind = "size" needs `size`; set target.size as well',
        f"{extra}: reclaim.chunk_seconds = 3: must be a number from 0.02 up to 1",
        f"{main}: reclaim.backend = 'magic': must be {', '.join(BackendName)}, auto",
        f"{main}: reclaim.chunk_second: unknown key: did you mean chunk_seconds?",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[xyz]", "xyz: unknown section: known here: target, reclaim, rates, history"),
        ("reclaim = 1", "reclaim = 1: must be a section with keys: stages, cold_age_seconds"),
        ("[reclaim]\nstages = []", "reclaim.stages = []: must be a list with at least one of sync"),
        ('[reclaim]\nstages = ["x"]', "reclaim.stages = 'x': must be a list with at least one of"),
        ('[reclaim]\ncold_age_seconds = "5"', "= '5': must be a number from 1 up to 86400"),
        ("[reclaim]\ncold_age_seconds = true", "= true: must be a number from 1 up to 86400"),
        ("[reclaim]\ntimeout_seconds = inf", "= inf: must be a number from 0"),
        ("[reclaim]\ntimeout_seconds = nan", "= nan: must be a number from 0"),
        ("[reclaim]\nsystemd_margin = 1", "= 1: must be a number above 0 up to 0.98"),
        ("[history]\nkeep = 0", "= 0: must be a whole number from 1 up to 100000"),
        ("[history]\nkeep = 1.5", "= 1.5: must be a whole number"),
        ("[target]\nkind = 1", "target.kind = 1: must be one of image_size, size, min, within"),
        ('[target]\nkind = "size"\nsize = "2 potatoes"', "'2 potatoes' is not a size such as"),
        ('[target]\nkind = "size"\nsize = 0', "target.size = 0: must be a size such as 512M"),
        ('[target]\nkind = "size"\nsize = -5', "target.size: -5 is negative; give a size such as"),
        ("[target]\nseconds = 5", '`seconds` is read with kind = "within" only'),
        ("[rates]\ncompression_ratio = 2", "= 2: must be a number above 0 up to 1.1"),
        (f"[history]\nkeep = {'9' * 5000}", "not TOML: Exceeds the limit"),
    ],
)
def test_one_line_for_one_error(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    (line,) = errors(tmp_path)
    assert line.startswith(f"{path}: ")
    assert expected in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"# \xff")
    assert errors(tmp_path) == (f"{path}: byte 2 is not UTF-8: save the file as UTF-8",)
    path.unlink()
    path.mkdir()
    assert "Is a directory" in errors(tmp_path)[0]
    with pytest.raises(ConfigError, match="No such file"):
        load("/", str(tmp_path / "missing.toml"))


def test_the_schema_is_json_and_names_everything() -> None:
    document = json.loads(json.dumps(schema()))
    assert set(document["properties"]) == {section for section, _ in settings()}
    assert document["additionalProperties"] is False


DAEMON = """
[reclaim]
stages = ["sync", "cache", "anon"]
[daemon]
policy = "continuous"
settle_seconds = 1
daily_write = "2 GiB"
metrics_file = "/var/lib/node/hibprep.prom"
metrics_port = 9750
[idle]
after_seconds = 2
sync_after_seconds = 3
cache_after_seconds = 4
cold_anon_after_seconds = 5
anon_after_seconds = 6
check_again_seconds = 70
cpu_idle_percent = 30
cpu_each = true
blind_seconds = 8
[power]
on_battery = "hold"
low_battery_percent = 9
on_low_battery = "cache-only"
on_low_power = "forward"
forward_factor = 0.5
[continuous]
within_seconds = 11
older_than_seconds = 300
law = "tmo"
period_seconds = 12
bytes_per_second = 1300
memory_pressure_percent = 14
io_pressure_percent = 15
refault_percent = 16
pause_seconds = 17
"""


def test_every_setting_of_the_daemon_has_an_effect(tmp_path: Path) -> None:
    write(tmp_path, DAEMON)
    config = load(str(tmp_path))
    shown = tomllib.loads(DAEMON)
    for section in ("daemon", "idle", "power", "continuous"):
        assert set(shown[section]) == {key for name, key in settings() if name == section}
    assert config.policy() == Policy(
        kind=PolicyKind.CONTINUOUS,
        target=Target(TargetKind.WITHIN, seconds=11),
        idle=IdlePolicy(
            cpu_each=True,
            cpu_idle_percent=30,
            cpu_idle_percent_while_reclaiming=30,
            blind_seconds=8,
        ),
        after_seconds=2,
        delays_seconds={Stage.SYNC: 3, Stage.CACHE: 4, Stage.ANON: 6},  # what may be used
        check_again_seconds=70,
        settle_seconds=1,
        on_battery=Battery.HOLD,
        low_battery_percent=9,
        on_low_battery=Battery.CACHE_ONLY,
        on_low_power=Battery.FORWARD,
        forward_factor=0.5,
        write_budget_bytes=2 << 30,
        continuous_seconds=11,
        period_seconds=12,
        older_than_seconds=300,
        pace=PacePolicy(
            law=Law.TMO,
            bytes_per_second=1300,
            memory_pressure_share=0.14,
            io_pressure_share=0.15,
            refault_share=0.16,
            pause_seconds=17,
        ),
    )
    assert config.daemon.metrics_file == "/var/lib/node/hibprep.prom"
    assert config.daemon.metrics_port == 9750
    write(tmp_path, "")
    assert load(str(tmp_path)).policy() == Policy()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[idle]\ncpu_each = 1", "idle.cpu_each = 1: must be true or false"),
        (
            '[daemon]\nmetrics_file = "x.prom"',
            "daemon.metrics_file = 'x.prom': must be an absolute path that ends in .prom",
        ),
        (
            '[power]\non_battery = "off"',
            "power.on_battery = 'off': must be one of as-usual, cache-only, hold, forward",
        ),
        (
            '[cgroups]\nprotect = ["user.slice"]',
            (
                "cgroups.protect = 'user.slice': must be a list, each of it a cgroup's path, such "
                "as /system.slice"
            ),
        ),
        (
            '[cgroups]\nprotect = ["/a"]\nfirst = ["/a"]',
            "cgroups: /a is in `protect` and in `first`; what is protected cannot be first",
        ),
    ],
)
def test_wrong_settings_of_the_daemon(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, text)
    assert [line.partition("hibprep.toml: ")[2] for line in errors(tmp_path)] == [words]


NOTICES = """
[notices]
provider = "command"
poll_seconds = 30
command = ["/usr/local/bin/notices", "--json"]
command_seconds = 5
[[on]]
notice = ["stop", "terminate"]
provider = ["aws", "gcp"]
do = "run"
command = ["/usr/local/bin/drain"]
timeout_seconds = 20
[[on]]
notice = ["stop"]
do = "webhook"
url = "https://example.org/notices?room=1"
credential = "hook"
[[on]]
notice = ["freeze"]
do = "prepare"
keep_seconds = 12.5
"""


def test_every_setting_for_notices_has_an_effect(tmp_path: Path) -> None:
    write(tmp_path, NOTICES)
    config = load(str(tmp_path))
    assert config.notices == NoticesSettings(
        provider="command",
        poll_seconds=30,
        command=("/usr/local/bin/notices", "--json"),
        command_seconds=5,
    )
    assert config.notice_rules() == (
        Rule(
            deed=Deed.RUN,
            reason="[[on]] 1",
            kinds=(NoticeKind.STOP, NoticeKind.TERMINATE),
            providers=(ProviderName.AWS, ProviderName.GCP),
            timeout_seconds=20,
            command=("/usr/local/bin/drain",),
        ),
        Rule(
            deed=Deed.WEBHOOK,
            reason="[[on]] 2",
            kinds=(NoticeKind.STOP,),
            url="https://example.org/notices?room=1",
            credential="hook",
        ),
        Rule(deed=Deed.PREPARE, reason="[[on]] 3", kinds=(NoticeKind.FREEZE,), keep_seconds=12.5),
    )
    shown = "\n".join(toml_lines(config))
    write(tmp_path, shown)
    assert load(str(tmp_path)) == config  # what is shown can be read again
    assert "# no [[on]]: the defaults" in "\n".join(toml_lines(Config()))


def test_every_provider_can_be_named() -> None:
    named = get_args(NoticesSettings.model_fields["provider"].annotation)
    assert {*named} - {"auto", "off"} == {*ProviderName} - {ProviderName.SIMULATED}


def test_rules_of_a_later_file_take_the_place_of_all_before(tmp_path: Path) -> None:
    write(tmp_path, NOTICES)
    write(tmp_path, '[[on]]\nnotice = ["stop"]\ndo = "aside"', "hibprep.toml.d/60.toml")
    assert [rule.deed for rule in load(str(tmp_path)).notice_rules()] == [Deed.ASIDE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[notices]\nprovider = "simulated"',
            "notices.provider = 'simulated': must be one of auto, off, aws, gcp, azure",
        ),
        ('[notices]\nprovider = "command"', 'notices: provider = "command" needs `command`'),
        ('[notices]\ncommand = ["x"]', "notices: `command` is read with provider ="),
        (
            '[notices]\nprovider = "aws"\naddress = "10.0.0.1"',
            "notices.address: 10.0.0.1 is neither of this machine nor of its link; give an",
        ),
        (
            '[notices]\nprovider = "aws"\naddress = "metadata:80"',
            "notices.address: 'metadata:80' is no address; give one such as 127.0.0.1:1338",
        ),
        ('[notices]\nprovider = "aws"\naddress = "127.0.0.1:70000"', "is no address; give"),
        ('[notices]\naddress = "127.0.0.1"', 'provider is "auto": name one such as aws'),
        ("[notices]\npoll_seconds = 0.5", "= 0.5: must be a number from 1 up to 300"),
        ('[on]\ndo = "run"', "must be tables [[on]] with keys: notice, provider, do, keep_seco"),
        ('[[on]]\nnotice = ["stop"]', "[[on]] 1: do is missing: must be one of prepare, swapin"),
        (
            '[[on]]\nnotice = ["stop"]\ndo = "aside"\n[[on]]\nnotice = ["stop"]\ndo = "fly"',
            "[[on]] 2: do = 'fly': must be one of prepare, swapin, run, hibernate, aside",
        ),
        (
            '[[on]]\nnotice = []\ndo = "aside"',
            "[[on]] 1: notice = []: must be a list with at least one of hibernate, stop",
        ),
        (
            '[[on]]\nnotice = ["stop"]\ndo = "aside"\nurl2 = 1',
            "[[on]] 1: url2: unknown key: did you mean url?",
        ),
        ('[[on]]\nnotice = ["stop"]\ndo = "run"', '[[on]] 1: do = "run" needs `command`'),
        ('[[on]]\nnotice = ["stop"]\ndo = "webhook"', 'do = "webhook" needs `url`'),
        (
            '[[on]]\nnotice = ["stop"]\ndo = "prepare"\ncommand = ["x"]',
            '[[on]] 1: `command` goes with do = "run" and do is "prepare"; remove `command` or',
        ),
        (
            '[[on]]\nnotice = ["stop"]\ndo = "run"\ncommand = ["x"]\ntimeout_seconds = 0',
            "[[on]] 1: timeout_seconds = 0: must be a number above 0 up to 86400",
        ),
    ],
)
def test_wrong_settings_for_notices(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, text)
    (line,) = errors(tmp_path)
    assert expected in line


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.org/s3cr3t", "`url` is neither https nor http to this machine"),
        ("http://169.254.169.254/s3cr3t", "`url` is neither https nor http to this machine"),
        ("https://me:s3cr3t@example.org/", "`url` has a name, a password or a fragment in it"),
        ("https://example.org/#s3cr3t", "`url` has a name, a password or a fragment in it"),
        ("https://example.org:0/s3cr3t", "`url` is no address"),
        ("https://example.org/s3cr3t x", "`url` is no address"),
        ("s3cr3t", "`url` is no address"),
        ("file:///s3cr3t", "`url` is no address"),
    ],
)
def test_a_wrong_url_is_not_repeated(tmp_path: Path, url: str, expected: str) -> None:
    write(tmp_path, f'[[on]]\nnotice = ["stop"]\ndo = "webhook"\nurl = "{url}"')
    (line,) = errors(tmp_path)
    assert f"[[on]] 1: url: {expected}" in line
    assert "s3cr3t" not in line


def test_a_secret_in_the_place_of_its_name_is_not_repeated(tmp_path: Path) -> None:
    rule = '[[on]]\nnotice = ["stop"]\ndo = "webhook"\nurl = "https://example.org"\n'
    write(tmp_path, rule + 'credential = "s3cr3t+/="')
    (line,) = errors(tmp_path)
    assert "`credential` is no name of a credential" in line
    assert "s3cr3t" not in line


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://example.org:8443/a?b=c",
        "http://127.0.0.1:9999/x",
        "http://localhost/x",
        "http://[::1]:80/x",
    ],
)
def test_urls(tmp_path: Path, url: str) -> None:
    write(tmp_path, f'[[on]]\nnotice = ["stop"]\ndo = "webhook"\nurl = "{url}"')
    assert load(str(tmp_path)).notice_rules()[0].url == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 80)),
        ("127.0.0.1:1338", ("127.0.0.1", 1338)),
        ("169.254.169.254", ("169.254.169.254", 80)),
        ("[::1]:1338", ("::1", 1338)),
        ("[fe80::1]", ("fe80::1", 80)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        _, port = parse_address(text)
        assert 0 < port < 65536
