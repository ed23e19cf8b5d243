# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep status`: what the daemon does and why, and the last report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from hibprep import hookclient
from hibprep.cli import common
from hibprep.errors import ExitCode, NotPossibleError
from hibprep.history import History, Kept
from hibprep.notices_report import notices_block
from hibprep.page import Block, Page, seconds, size
from hibprep.report import report_page
from hibprep.status import Status

NO_DAEMON = "No daemon runs."


@click.command("status")
@click.option("--follow", is_flag=True, help="Go on, with a line for every change.")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, follow: bool, as_json: bool) -> int:
    """Say what the daemon does and why, what comes next, and what the last run did."""
    config = common.load_config(ctx)
    common.open_machine(ctx, config)
    path = str(Path(common.root_prefix(ctx)) / hookclient.PATH.lstrip("/"))
    kept = History(common.root_prefix(ctx), config.history.keep).last()
    try:
        if follow:
            return _follow(path, as_json=as_json)
        answer = hookclient.request({"do": "status", "who": "hibprep status"}, path=path)
    except hookclient.NoDaemon as error:
        if follow:
            raise NotPossibleError("no daemon runs", "start it: hibprep run") from error
        _show(None, kept, as_json=as_json)
    except hookclient.DaemonError as error:
        raise NotPossibleError(str(error)) from error
    else:
        _show(Status.from_plain(answer.get("status")), kept, as_json=as_json)
    return ExitCode.DONE


def _show(status: Status | None, kept: Kept, *, as_json: bool) -> None:
    report = kept.reports[-1] if kept.reports else None
    answer = {
        "running": status is not None,
        "daemon": None if status is None else status.to_plain(),
        "report": report,
        "note": kept.note,
    }
    common.show(
        answer,
        lambda: page(kept) if status is None else daemon_page(status, kept),
        as_json=as_json,
    )


def _follow(path: str, *, as_json: bool) -> int:
    try:
        for answer in hookclient.follow(path):
            status = Status.from_plain(answer.get("status"))
            click.echo(status.to_json() if as_json else line(status))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def line(status: Status) -> str:
    """The daemon in one line."""
    parts = [f"{status.phase}: {status.reason}"]
    if status.progress:
        done, amount = status.progress.get("done_bytes", 0), status.progress.get("amount_bytes", 0)
        parts.append(f"{status.stage} {size(int(done))} of {size(int(amount))}")
    if status.next_step:
        parts.append(f"next: {status.next_step}")
    parts += [
        f"{each.kind} announced by {each.source}: {each.doing or 'waits'}"
        for each in status.notices
        if each.progress == "at work"
    ]
    if "hibernate_seconds" in status.prediction:
        parts.append(f"would hibernate in {seconds(status.prediction['hibernate_seconds'])}")
    return "; ".join(parts)


def daemon_page(status: Status, kept: Kept) -> Page:
    """What the daemon says of itself, and the last report."""
    now = [("state", f"{status.phase} since {status.since}"), ("why", status.reason)]
    if status.done_stages:
        now.append(("done", ", ".join(status.done_stages)))
    if status.progress:
        now.append(("doing", line(dataclasses.replace(status, next_step="", prediction={}))))
    if status.next_step:
        now.append(("next", status.next_step))
    now.append(("policy", status.policy))
    if status.write_budget_bytes:
        spent, budget = size(status.written_today_bytes), size(status.write_budget_bytes)
        now.append(("swapped out today", f"{spent} of {budget}"))
    blocks = (
        Block("Daemon", tuple(now)),
        Block("Hibernation now", _hibernation(status)),
        notices_block(status.notices),
        Block(
            "Sources",
            tuple(
                (source.name, "works" if source.works else "does not work", source.reason)
                for source in status.sources
            ),
            ("source", "", "how, or why not"),
        ),
        Block("Last run", _last(status, kept)),
    )
    notes = (kept.note,) if kept.note else ()
    return Page(_headline(status), blocks, notes)


def _headline(status: Status) -> str:
    would = status.prediction.get("hibernate_seconds")
    if would is None:
        return f"hibprep is {status.phase}."
    words = f"would hibernate in {seconds(would)}"
    unprepared = status.prediction.get("unprepared_hibernate_seconds")
    if unprepared is not None:
        words += f"; unprepared: {seconds(unprepared)}"
    return f"hibprep is {status.phase}: {words}."


def _hibernation(status: Status) -> tuple[tuple[str, ...], ...]:
    rows: list[tuple[str, ...]] = []
    if "saveable_bytes" in status.prediction:
        rows.append(("saveable memory", size(status.prediction["saveable_bytes"])))
    if "resume_seconds" in status.prediction:
        rows.append(("would resume in", seconds(status.prediction["resume_seconds"])))
    if status.swap:
        free, total = status.swap.get("free_bytes", 0), status.swap.get("total_bytes", 0)
        rows.append(("swap", f"{size(free)} free of {size(total)}"))
    if status.fit_ok is not None:
        rows.append(("fits", "yes" if status.fit_ok else f"no: {status.fit}"))
    return tuple(rows)


def _last(status: Status, kept: Kept) -> tuple[tuple[str, ...], ...]:
    last = status.last_report
    if last is None and kept.reports:
        report = kept.reports[-1]
        last = {
            "started": report.started,
            "ending": str(report.ending),
            "reason": report.reason,
            "freed_bytes": report.freed.reclaimed_bytes,
            "seconds": report.seconds,
        }
    if last is None:
        return ()
    return (
        ("started", str(last.get("started", ""))),
        ("ended", f"{last.get('ending', '')}: {last.get('reason', '')}"),
        ("freed", size(float(last.get("freed_bytes", 0)))),
        ("took", seconds(float(last.get("seconds", 0)))),
    )


def page(kept: Kept) -> Page:
    """Without a daemon: the last report, or that there is none."""
    notes = (kept.note,) if kept.note else ()
    if not kept.reports:
        return Page(f"{NO_DAEMON} No run is kept.", notes=notes)
    last = kept.reports[-1]
    shown = report_page(last)
    return dataclasses.replace(
        shown,
        headline=f"{NO_DAEMON} The last run, of {last.started}: {shown.headline}",
        notes=(*shown.notes, *notes),
    )
