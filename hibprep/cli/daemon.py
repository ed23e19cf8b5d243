# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep run`: the daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import click

from hibprep.cli import common
from hibprep.daemon import Daemon
from hibprep.errors import ExitCode

# sd-daemon(3): the journal reads a line's priority from its beginning
_PRIORITIES = (
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
    (logging.NOTSET, "<7>"),
)


class _Lines(logging.Formatter):
    """One line each; with its priority where the journal reads."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._journal:
            return f"hibprep: {text}"
        priority = next(word for level, word in _PRIORITIES if record.levelno >= level)
        return "\n".join(priority + line for line in text.splitlines())


@click.command("run")
@common.common_options
@click.pass_context
def command(ctx: click.Context) -> int:
    """Run the daemon: prepare this machine while nobody uses it. SIGHUP reads the configuration
    anew, SIGTERM ends it."""
    common.must_be_root(ctx)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(journal="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    daemon = Daemon(common.root_prefix(ctx), lambda: common.load_config(ctx))
    asyncio.run(daemon.run())
    return ExitCode.DONE
