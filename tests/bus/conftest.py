# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bus for every test that asks for one."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bus.privatebus import CONFIG, Bus, running_bus
from tests.bus.whole import Machine, made_machine

__all__ = ["Bus"]

_CONFIG = CONFIG


@contextmanager
def private_bus(folder: Path) -> Iterator[Bus]:
    """A dbus-daemon with its socket in `folder`."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon here: install the package dbus-daemon")
    with running_bus(folder, _CONFIG) as made:
        yield made


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with private_bus(tmp_path) as made:
        yield made


@pytest.fixture
def machine(tmp_path: Path, bus: Bus) -> Iterator[Machine]:
    with made_machine(tmp_path / "root", bus) as made:
        yield made


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """dbus-next loses the socket of a connection that fails: it is collected here, where the test
    ignores the warning, and not in the middle of another test."""
    yield
    gc.collect()
