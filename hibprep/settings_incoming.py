# SPDX-License-Identifier: LGPL-2.1-or-later
"""The declarations of the settings for guests that come to this host."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from hibprep.settings import Argument, Number, Section

PLACEHOLDERS = ("{source}", "{uuid}", "{name}")
_BRACES = re.compile(r"\{[a-z_]*\}")

SourceRule = Annotated[
    str,
    StringConstraints(pattern=r"^[^=\x00]{1,255}=[0-9A-Za-z][0-9A-Za-z._:-]{0,252}$"),
    Field(description="GUEST=HOST, GUEST being a name or a UUID, with * and ? for what may differ"),
]


class IncomingSettings(Section):
    """A migration that comes in; see docs/libvirt-hooks.md."""

    command: Annotated[
        tuple[Argument, ...],
        Field(
            description="run before a guest is migrated to here, to have the source prepare it: a "
            "program and its arguments, with {source}, {uuid} and {name} in them; empty: nothing is"
        ),
    ] = ()
    sources: Annotated[
        tuple[SourceRule, ...],
        Field(
            description="which host guests come from, the first that fits; before them goes what a "
            "guest's metadata says"
        ),
    ] = ()
    seconds: Annotated[
        Number, Field(gt=0, le=300, description="the migration waits no longer for it")
    ] = 20.0
    refuse: Annotated[
        bool,
        Field(
            strict=True,
            description="true: a migration is refused when its source could not prepare the guest",
        ),
    ] = False

    @model_validator(mode="after")
    def _known_placeholders(self) -> Self:
        for argument in self.command:
            for found in _BRACES.findall(argument):
                if found not in PLACEHOLDERS:
                    raise ValueError(
                        f"`command` has {found} in it; give some of {', '.join(PLACEHOLDERS)}"
                    )
        if self.refuse and not self.command:
            raise ValueError("`refuse` needs a `command`; set incoming.command as well")
        return self
