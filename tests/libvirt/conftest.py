# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two real libvirtd, and guests that move between them; as root, who becomes an ordinary user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.lab import build
from bench.lab.rig import Rig

if TYPE_CHECKING:
    from tests.libvirt.bare_guest import BareGuest
    from tests.libvirt.rig_guest import Connections, RigGuest

RIG_SECONDS = 900  # guests are emulated, and the first test of all builds the rig and the image
MISSING = "python3-libvirt, or pip install 'hibprep[libvirt]' with libvirt-dev, pkg-config and gcc"

NewGuest = Callable[..., "RigGuest"]
NewBareGuest = Callable[..., "BareGuest"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.must)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(RIG_SECONDS))


@pytest.fixture(scope="session")
def rig_session() -> Iterator[Rig]:
    if os.geteuid() != 0:
        pytest.skip("the rig is built, and its hosts are started, as root")
    with Rig(print) as rig:
        yield rig


@pytest.fixture
def rig(rig_session: Rig) -> Rig:
    """Both hosts, running: a test may have switched one off."""
    for host in rig_session.hosts:
        if not host.running:
            host.start()
    return rig_session


@pytest.fixture
def connections() -> Iterator[Connections]:
    libvirt = pytest.importorskip("libvirt", reason=f"there is no libvirt-python: {MISSING}")
    # or every error that a test provokes is on its standard error
    libvirt.registerErrorHandler(lambda *_: None, None)
    from tests.libvirt.rig_guest import Connections  # noqa: PLC0415 - it imports libvirt

    found = Connections()
    yield found
    found.close()


@pytest.fixture
def new_guest(rig: Rig, connections: Connections) -> Iterator[NewGuest]:
    """Boot guests; they are gone when the test ends, however it ends. For what may be asked of
    them see `RigGuest`."""
    from tests.libvirt.rig_guest import RigGuest  # noqa: PLC0415 - it imports libvirt

    with ExitStack() as stack:

        def start(**options: object) -> RigGuest:
            image = build("agent", print)
            guest = RigGuest(rig, connections, image, **options)  # type: ignore[arg-type]
            stack.callback(guest.close)
            guest.start()
            return guest

        yield start


@pytest.fixture
def guest(new_guest: NewGuest) -> RigGuest:
    """One with the default device: a balloon, without free page reporting."""
    return new_guest()


@pytest.fixture
def new_bare_guest(rig: Rig, connections: Connections) -> Iterator[NewBareGuest]:
    """Start domains that nobody is in; as `new_guest`."""
    from tests.libvirt.bare_guest import BareGuest  # noqa: PLC0415 - it needs libvirt

    with ExitStack() as stack:

        def start(**options: object) -> BareGuest:
            guest = BareGuest(rig, connections, **options)  # type: ignore[arg-type]
            stack.callback(guest.close)
            guest.start()
            return guest

        yield start
