# SPDX-License-Identifier: LGPL-2.1-or-later
"""OpenStack, which gives no notices: said plainly, with what to do instead.

Nova's metadata service (Compute Service, "Metadata service") has what the instance was made with,
and nothing of what is going to be done to it; the same goes for a config drive. A shelving, an
evacuation and a live migration are told to its own services and to its users, and not to guests.
"""

from __future__ import annotations

from collections.abc import Sequence

from hibprep.notices import Notice, ProviderName
from hibprep.signals.cloud.base import Link, NotHereError, Watch
from hibprep.signals.cloud.link import Place

PLACE = Place("169.254.169.254")

REMEDY = (
    'have a program tell of what is planned (notices.provider = "command"), or run hibprep on the '
    'host, which prepares guests before they are moved; set notices.provider = "off" to hear no '
    "more of this"
)


class Openstack:
    """The provider that has nothing to say."""

    def __init__(self, link: Link) -> None:
        """Made as the others are; the link is not used."""

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.OPENSTACK

    def watches(self) -> Sequence[Watch]:
        """Raises NotHereError, always."""
        raise NotHereError("OpenStack gives guests no notice of what is done to them", REMEDY)

    def acknowledge(self, notice: Notice) -> None:
        """Raises NotHereError, always."""
        raise NotHereError(f"OpenStack gives guests no notice, such as of {notice.kind}", REMEDY)
