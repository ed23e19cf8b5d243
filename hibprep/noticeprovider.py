# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who gives notices on this machine, as it is configured."""

from __future__ import annotations

from hibprep.errors import ConfigError
from hibprep.kernel.root import KernelRoot
from hibprep.settings_notices import NoticesSettings, parse_address
from hibprep.signals.cloud.base import Link, Provider
from hibprep.signals.cloud.command import Command
from hibprep.signals.cloud.find import find
from hibprep.signals.cloud.link import HttpLink, Place

COMMAND_PAUSE_SECONDS = 5.0  # between two runs of a command, where no other is configured


def provider_of(root: KernelRoot, settings: NoticesSettings, wanted: str | None = None) -> Provider:
    """The provider that is configured, or `wanted` in its place. Blocks; raises as
    `hibprep.signals.cloud.find.find`."""
    name = wanted or settings.provider
    if name == "command":
        if not settings.command:
            raise ConfigError("notices.command is not set", "set the program, and its arguments")
        pause = settings.poll_seconds or COMMAND_PAUSE_SECONDS
        return Command(settings.command, pause, settings.command_seconds)
    return find(root, name, lambda place: link_to(place, settings))


def link_to(place: Place, settings: NoticesSettings) -> Link:
    """The way to a metadata service, or to the stand-in that is configured for it, which is to hear
    the name of the real one."""
    if settings.address is None:
        return HttpLink(place)
    address, port = parse_address(settings.address)
    return HttpLink(Place(address, port, place.host))
