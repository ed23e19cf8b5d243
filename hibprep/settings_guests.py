# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declarations of the settings for guests of libvirt on this host."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from hibprep.settings import BytesPerSecond, Number, Section, Size


class GuestsSettings(Section):
    """What `hibprep guest` does when the command line does not say, and the daemon for guests."""

    enabled: Annotated[
        bool,
        Field(
            strict=True,
            description="true: the daemon gives guests that come here prepared their memory back, "
            "whoever migrated or restored them; read when it starts",
        ),
    ] = False

    uri: Annotated[
        str,
        StringConstraints(pattern=r"^[a-z][a-z0-9+-]*:\S*$", max_length=1024),
        Field(description="libvirt's URI of this host, such as qemu:///system"),
    ] = "qemu:///system"
    reserve_percent: Annotated[
        Number,
        Field(
            ge=5,
            le=400,
            description="a guest whose balloon is inflated is left with this part of what it uses "
            "beyond that",
        ),
    ] = 20.0
    reserve_least: Annotated[Size, Field(ge=16 << 20, description="and with no less than this")] = (
        64 << 20
    )
    timeout_seconds: Annotated[
        Number, Field(gt=0, le=3600, description="preparing a guest takes no longer")
    ] = 60.0
    inside_seconds: Annotated[
        Number,
        Field(gt=0, le=3600, description="and what of it is done inside the guest no longer"),
    ] = 30.0
    bytes_per_second: Annotated[
        BytesPerSecond,
        Field(description="how fast guests are migrated or saved, for estimates of the time"),
    ] = 125e6
