# SPDX-License-Identifier: LGPL-2.1-or-later
"""The delay lock on sleep, held from before a sleep is asked for (systemd-inhibit(1))."""

from __future__ import annotations

import logging
import os

from hibprep.bus.client import BusError
from hibprep.bus.sessions import Login1, is_gone

log = logging.getLogger(__name__)

# not shutdown: what was reclaimed is worth nothing after it, and SIGTERM stops us all the same
_WHAT = "sleep"
_WHO = "hibprep"
_WHY = "memory is being reclaimed; it stops before the sleep begins"


class DelayLock:
    """The delay lock on sleep: logind waits for it to be released, for InhibitDelayMaxSec."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._wanted = False
        self._renew = False
        self.trouble = ""  # why it could not be had

    @property
    def held(self) -> bool:
        """Whether a sleep would wait for us."""
        return self._descriptor is not None

    @property
    def missing(self) -> bool:
        """Whether it should be taken."""
        return self._wanted and (self._renew or not self.held)

    def want(self, *, renew: bool = False) -> None:
        """From now on it should be held; `renew`: by another logind, if it is held."""
        self._wanted = True
        self._renew = self._renew or renew

    def release(self) -> None:
        """Let the sleep begin. Does nothing when it is not held."""
        self._wanted = self._renew = False
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    async def take(self, login1: Login1) -> None:
        """Take it; what logind refuses is logged, and nothing else is lost."""
        try:
            descriptor = await login1.inhibit(_WHAT, _WHO, _WHY, "delay")
        except BusError as error:
            if is_gone(error):
                raise
            if self.trouble != error.message:
                log.warning("no delay lock on sleep: %s", error.message)
            self.trouble = error.message
            return
        if not self._wanted:  # released while it was being asked for
            os.close(descriptor)
            return
        old, self._descriptor = self._descriptor, descriptor
        if old is not None:
            os.close(old)
        self._renew, self.trouble = False, ""
