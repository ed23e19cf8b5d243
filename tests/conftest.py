# SPDX-License-Identifier: LGPL-2.1-or-later
"""With `--must`, a test marked `must` that did not run is a failure: a green run is a whole run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--must", action="store_true", help="fail when a test marked `must` was skipped"
    )


class Skipped:
    """Collects the skipped tests that must not be."""

    def __init__(self) -> None:
        self.must: list[str] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item):  # type: ignore[no-untyped-def] # noqa: ANN201
        outcome = yield
        report = outcome.get_result()
        if report.skipped and item.get_closest_marker("must") is not None:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self.must.append(f"{item.nodeid}: {reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.must and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.must:
            terminalreporter.write_line(f"MUST RUN AND DID NOT: {line}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    # No test is about time, so none fails for a machine that is busy.
    settings.register_profile("usual", deadline=None)
    # CI tries the same examples every time: it judges a change. Runs by hand go on exploring.
    settings.register_profile("ci", deadline=None, derandomize=True)
    settings.load_profile("ci" if os.environ.get("CI") else "usual")
    if config.getoption("--must"):
        config.pluginmanager.register(Skipped(), "must-run")
