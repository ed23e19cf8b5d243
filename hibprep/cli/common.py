# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands share: options and how their values are read, signals, output, exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from hibprep import __version__
from hibprep.errors import ExitCode, NotPossibleError, UsageError
from hibprep.model import Ending, Limits, Report, Scope, Stage, Target, TargetKind, ZramUse
from hibprep.sizes import parse_size, shorten

if TYPE_CHECKING:
    from types import FrameType

    from hibprep.config import Config
    from hibprep.kernel.root import KernelRoot
    from hibprep.machine import Machine
    from hibprep.page import Page
    from hibprep.reclaim.base import Stop

Value = TypeVar("Value")
Decorated = TypeVar("Decorated", bound=Callable[..., object])

ROOT_VARIABLE = "HIBPREP_ROOT"
_ROOT_KEY = "hibprep.root"
_CONFIG_KEY = "hibprep.config"

ABSURD_TIMES_MEMORY = 16  # more is a slip of the pen, not a wish
LONGEST_SECONDS = 366 * 86400.0

_SECONDS = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*(s|min|m|h|d)?", re.IGNORECASE)
_UNIT_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


# --- values ---------------------------------------------------------------------------------------


def parse_seconds(text: str) -> float:
    """A time: seconds, or with a unit."""
    match = _SECONDS.fullmatch(text.strip())
    number = float(match[1]) * _UNIT_SECONDS[(match[2] or "").lower()] if match else 0.0
    if not 0 < number <= LONGEST_SECONDS:
        raise ValueError(
            f"{shorten(repr(text))} is not a time; give seconds above 0 and up to a year, such as "
            "10, 2.5 or 5min"
        )
    return number


def parse_target(text: str) -> Target:
    """`image_size`, `min` or a size."""
    word = text.strip()
    if word in (TargetKind.IMAGE_SIZE, TargetKind.MIN):
        return Target(TargetKind(word))
    try:
        size_bytes = parse_size(word)
    except ValueError as error:
        raise ValueError(f"{error}, image_size or min") from None
    if size_bytes == 0:
        raise ValueError("no image is of 0 bytes; min is the smallest possible")
    return Target(TargetKind.SIZE, size_bytes)


def parse_amount(text: str) -> int:
    """A size, or 0 for `max`: click takes None for "not given"."""
    if text.strip() == "max":
        return 0
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise ValueError(f"{error}, or max") from None
    if size_bytes == 0:
        raise ValueError("0 bytes are nothing to reclaim; give a size such as 512M, or max")
    return size_bytes


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Stages in the order of a plan, in whatever order they were given."""
    names = {name.strip() for name in text.split(",")} - {""}
    unknown = sorted(names - {str(stage) for stage in Stage})
    if unknown or not names:
        said = f"unknown stage {shorten(', '.join(unknown))}" if unknown else "no stage given"
        raise ValueError(f"{said}; give some of {','.join(Stage)}")
    return tuple(stage for stage in Stage if stage in names)


def converted(
    parse: Callable[[str], Value],
) -> Callable[[click.Context, click.Parameter, str | None], Value | None]:
    """A callback that reads an option's value.

    Not click.ParamType: whether it is generic differs between the versions that are supported.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> Value | None:
        if value is None:
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback


# --- options --------------------------------------------------------------------------------------


def _remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[_ROOT_KEY if param.name == "root" else _CONFIG_KEY] = value


def common_options(command: Decorated) -> Decorated:
    """`--config`, `--root` and `--version`, which every command takes, before or after its name."""
    for option in (
        click.version_option(__version__, message="hibprep %(version)s"),
        click.option(
            "--root",
            metavar="DIR",
            expose_value=False,
            callback=_remember,
            help=f"Take all kernel and system files from below DIR (also {ROOT_VARIABLE}).",
        ),
        click.option(
            "--config",
            metavar="FILE",
            expose_value=False,
            callback=_remember,
            help="Read FILE instead of /etc/hibprep/hibprep.toml and its drop-ins.",
        ),
    ):
        command = option(command)
    return command


def target_options(command: Decorated) -> Decorated:
    """`--target` and `--within`."""
    for option in (
        click.option(
            "--within",
            callback=converted(parse_seconds),
            metavar="SECONDS",
            help="Aim at a hibernation that takes so long, and keep what fits in that.",
        ),
        click.option(
            "--target",
            callback=converted(parse_target),
            metavar="SIZE|image_size|min",
            help="Aim at an image of SIZE, at the kernel's image_size, or at the smallest.",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Decorated) -> Decorated:
    """`--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
    )(command)


timeout_option = click.option(
    "--timeout",
    callback=converted(parse_seconds),
    metavar="SECONDS",
    help="End after so long with what was reached.",
)


def zram_option(*uses: ZramUse) -> Callable[[Decorated], Decorated]:
    """`--zram`, with what the command can do about it."""
    return click.option(
        "--zram",
        type=click.Choice([str(use) for use in uses]),
        help="What becomes of what is in zram (default: reclaim.zram).",
    )


cgroup_option = click.option(
    "--cgroup", metavar="PATH", help="Work on this cgroup alone, such as /user.slice."
)


# --- from options to values -----------------------------------------------------------------------


def root_prefix(ctx: click.Context) -> str:
    """The root that was asked for."""
    prefix = str(ctx.meta.get(_ROOT_KEY) or os.environ.get(ROOT_VARIABLE) or "/")
    if not os.path.isdir(prefix):  # noqa: PTH112 - pathlib costs a tenth of the start
        raise UsageError(f"root {shorten(prefix)} is not a directory", "give one with --root DIR")
    return prefix


def load_config(ctx: click.Context) -> Config:
    """The configuration that was asked for."""
    # pydantic costs 80 ms: not before a command needs it, and not for --help
    from hibprep.config import load  # noqa: PLC0415

    return load(root_prefix(ctx), ctx.meta.get(_CONFIG_KEY))


def config_given(ctx: click.Context) -> bool:
    """Whether a configuration was named on the command line."""
    return _CONFIG_KEY in ctx.meta


def files_read(ctx: click.Context) -> tuple[str, ...]:
    """The configuration files that `load_config` reads."""
    from hibprep.config import config_files  # noqa: PLC0415

    given = ctx.meta.get(_CONFIG_KEY)
    if given is not None:
        return (str(given),)
    return tuple(str(path) for path in config_files(root_prefix(ctx)))


def open_machine(ctx: click.Context, config: Config) -> Machine:
    """The machine that was asked for. What a killed run had left changed is put back by this, and
    that is said, whatever the command is."""
    from hibprep.machine import open_machine as open_it  # noqa: PLC0415

    machine = open_it(root_prefix(ctx), config)
    for words in machine.recovered:
        click.echo(f"hibprep: left by an earlier run: {words}", err=True)
    return machine


def choose_target(config: Config, target: Target | None, within: float | None) -> Target:
    """The target of the command line, else that of the configuration."""
    if target is not None and within is not None:
        raise UsageError("--target and --within exclude each other", "give one of them")
    if within is not None:
        return Target(TargetKind.WITHIN, seconds=within)
    return target if target is not None else config.target()


def choose_limits(
    config: Config, stages: tuple[Stage, ...] | None = None, scope: Scope | None = None
) -> Limits:
    """The limits of the configuration with those of the command line on top."""
    limits = config.limits()
    if stages is not None:
        limits = dataclasses.replace(limits, stages=stages)
    return limits if scope is None else dataclasses.replace(limits, scope=scope)


def choose_zram(config: Config, limits: Limits, zram: str | None) -> Limits:
    """The limits with what becomes of zram. Only a command that a person gave asks for that."""
    use = config.reclaim.zram if zram is None else ZramUse(zram)
    return dataclasses.replace(limits, zram=use)


def choose_timeout(config: Config, timeout: float | None) -> float | None:
    """How long a run may take; None: as long as it takes."""
    return timeout if timeout is not None else config.reclaim.timeout_seconds or None


def refuse_absurd(root: KernelRoot, amount_bytes: int, what: str) -> None:
    """An amount that no machine like this has is a slip, and doing "all of it" no answer to it."""
    from hibprep.kernel.meminfo import read_meminfo  # noqa: PLC0415

    total = read_meminfo(root).total_bytes
    if amount_bytes > ABSURD_TIMES_MEMORY * total:
        raise UsageError(
            f"{what} of {amount_bytes} bytes is more than {ABSURD_TIMES_MEMORY} times the memory "
            f"of this machine ({total} bytes)",
            "mind the unit, such as 512M or 2GiB",
        )


def must_be_root(ctx: click.Context) -> None:
    """Changing the memory of the real machine takes root; say so before anything is tried."""
    if os.path.realpath(root_prefix(ctx)) == "/" and os.geteuid() != 0:
        raise NotPossibleError("must be root", f"run sudo {ctx.command_path}")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """A stop flag that Ctrl-C, SIGTERM and the loss of the terminal raise."""
    from hibprep.reclaim.base import Stop  # noqa: PLC0415

    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the handler's signature
        stop.request(f"interrupted by {signal.Signals(number).name}")

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()


# --- output ---------------------------------------------------------------------------------------


def show(value: object, page: Callable[[], Page], *, as_json: bool) -> None:
    """Print a value: one JSON object, or the page for a person."""
    if as_json:
        show_json(value)
        return
    from hibprep.page import render  # noqa: PLC0415

    color = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    text = render(
        page(),
        terminal=sys.stdout.isatty(),
        color=color,
        width=shutil.get_terminal_size().columns,
    )
    click.echo(text, nl=False, color=color)


def show_json(value: object) -> None:
    """Print one JSON object."""
    from hibprep.report import to_json  # noqa: PLC0415 - it brings humanize

    click.echo(to_json(value))


def exit_code(report: Report) -> ExitCode:
    """What a run's end means to the shell."""
    if report.ending is Ending.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if report.ending is Ending.UNAVAILABLE:
        return ExitCode.IMPOSSIBLE
    if report.ending is Ending.FAILED:  # a hibernation that did not come about, for one
        return ExitCode.PARTLY
    if report.ending is Ending.DONE or (report.goal_bytes > 0 and report.goal_reached):
        return ExitCode.DONE
    return ExitCode.PARTLY
