# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep notices`: what the cloud around this machine announces, and made-up notices."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hibprep import hookclient
from hibprep.cli import common
from hibprep.clock import SystemClock
from hibprep.errors import ExitCode, HibprepError, NotPossibleError, UsageError
from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.notices_report import NoticesReport, Watched, from_plain, notices_page
from hibprep.status import NoticeStatus

if TYPE_CHECKING:
    from hibprep.settings_notices import NoticesSettings
    from hibprep.signals.cloud.base import Provider

_WHO = "hibprep notices"
_START = "start it: systemctl start hibprep.service"
_PROVIDERS = ("auto", *(str(name) for name in ProviderName if name is not ProviderName.SIMULATED))


def parse_time(text: str) -> datetime:
    """A time of day with its date, in ISO 8601; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no time; give one such as 2026-11-22T14:04:00Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@click.group("notices", invoke_without_command=True, no_args_is_help=False)
@click.option(
    "--provider",
    type=click.Choice(_PROVIDERS),
    help="With --once: ask this one, and not the one that is configured.",
)
@click.option("--once", is_flag=True, help="Ask the provider itself, once, without the daemon.")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, provider: str | None, once: bool, as_json: bool) -> int:
    """Show what the cloud around this machine announces: who gives notices, what is looked at,
    what was said last, and what the daemon does about it."""
    if ctx.invoked_subcommand is not None:
        return ExitCode.DONE
    if provider is not None and not once:
        raise UsageError(
            "--provider goes with --once", "the daemon asks whom notices.provider names"
        )
    settings = common.load_config(ctx).notices
    report = _asked_once(ctx, settings, provider) if once else _asked_daemon(ctx)
    common.show(report, lambda: notices_page(report), as_json=as_json)
    failed = any(each.failures for each in report.watches) if once else False
    return ExitCode.PARTLY if failed else ExitCode.DONE


@command.command("simulate")
@click.argument("kind", type=click.Choice([str(kind) for kind in NoticeKind]))
@click.option(
    "--in",
    "seconds",
    callback=common.converted(common.parse_seconds),
    metavar="SECONDS",
    help="It happens so soon.",
)
@click.option(
    "--at",
    callback=common.converted(parse_time),
    metavar="TIME",
    help="It happens then, such as 2026-11-22T14:04:00Z.",
)
@common.json_option
@common.common_options
@click.pass_context
def simulate(
    ctx: click.Context, *, kind: str, seconds: float | None, at: datetime | None, as_json: bool
) -> int:
    """Have the daemon do what it does on a notice of KIND: it is taken for one of the provider's,
    and all that is configured for it is really done, hibernating included. Without --in and --at no
    time is told."""
    if seconds is not None and at is not None:
        raise UsageError("--in and --at exclude each other", "give one of them")
    document: dict[str, object] = {"do": "simulate", "kind": kind, "who": f"{_WHO} simulate"}
    if at is not None:
        seconds = (at - SystemClock().now()).total_seconds()
        if not 0 < seconds <= common.LONGEST_SECONDS:
            raise UsageError(f"{at.isoformat()} is not to come", "give a time of the next hours")
    if seconds is not None:
        document["seconds"] = seconds
    answer = _ask(ctx, document)
    if as_json:
        common.show_json({"kind": kind, "seconds": seconds, "id": answer.get("id")})
    else:
        click.echo(f"told: {kind} ({answer.get('id')}); hibprep notices shows what is done")
    return ExitCode.DONE


def _ask(
    ctx: click.Context, document: dict[str, object], remedy: str = _START
) -> dict[str, object]:
    path = str(Path(common.root_prefix(ctx)) / hookclient.PATH.lstrip("/"))
    try:
        return hookclient.request(document, path=path)
    except hookclient.NoDaemon as error:
        raise NotPossibleError("no daemon runs", remedy) from error
    except hookclient.DaemonError as error:
        raise NotPossibleError(str(error)) from error


def _asked_daemon(ctx: click.Context) -> NoticesReport:
    remedy = f"{_START}, or ask the provider itself: hibprep notices --once"
    return from_plain(_ask(ctx, {"do": "notices", "who": _WHO}, remedy).get("notices"))


def _asked_once(ctx: click.Context, settings: NoticesSettings, wanted: str | None) -> NoticesReport:
    # urllib3, and all that is known of clouds
    from hibprep.kernel.root import KernelRoot  # noqa: PLC0415
    from hibprep.noticeprovider import provider_of  # noqa: PLC0415

    if wanted is None and settings.provider == "off":
        raise NotPossibleError("notices.provider is off", "name one: --provider NAME")
    provider = provider_of(KernelRoot(common.root_prefix(ctx)), settings, wanted)
    return look_once(provider)


def look_once(provider: Provider) -> NoticesReport:
    """What all places of `provider` say now. A place that does not answer is told as one that
    failed. Raises NotHereError, NoAnswerError and AnswerError where there are none."""
    clock = SystemClock()
    watches: list[Watched] = []
    notices: dict[tuple[str, str], NoticeStatus] = {}
    for watch in provider.watches():
        at = clock.now().isoformat(timespec="seconds")
        try:
            look = watch.look()
        except HibprepError as error:
            watches.append(Watched(watch.name, str(error), at, 1))
            continue
        watches.append(Watched(watch.name, look.words, at))
        for notice in look.notices:
            notices[notice.source, notice.id] = _shown(notice, look.now or clock.now())
    return NoticesReport(
        provider=provider.name,
        works=True,
        reason="asked once",
        watches=tuple(watches),
        notices=tuple(notices.values()),
    )


def _shown(notice: Notice, now: datetime) -> NoticeStatus:
    left = None if notice.at is None else max(0.0, (notice.at - now).total_seconds())
    return NoticeStatus(
        kind=notice.kind,
        source=notice.source,
        id=notice.id,
        text=notice.text,
        deadline="" if notice.at is None else notice.at.isoformat(timespec="seconds"),
        seconds_left=0.0 if notice.begun else left,
    )
