# SPDX-License-Identifier: LGPL-2.1-or-later
"""Golden files: `pytest --regenerate-golden` writes them anew; look at the difference in git."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        default=False,
        help="write the golden files of tests/unit anew instead of comparing with them",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    regenerate = bool(request.config.getoption("--regenerate-golden"))

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if regenerate:
            path.write_text(text)
        assert text == path.read_text(), f"{name} differs; --regenerate-golden writes it anew"

    return compare
