# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong with guests, each as one line with a remedy; the exit codes are those of
`hibprep.errors`."""

from __future__ import annotations

from hibprep.errors import ExitCode, HibprepError, NotPossibleError, UsageError


class GuestError(HibprepError):
    """libvirt refused, for a reason that has no class of its own."""


class LibvirtMissingError(NotPossibleError):
    """The Python binding of libvirt is not installed."""


class ConnectionFailedError(NotPossibleError):
    """libvirtd does not answer at that URI, or has gone away."""


class NoSuchDomainError(UsageError):
    """No domain of that name or UUID on that host, or it is gone."""


class NotRunningError(NotPossibleError):
    """It takes a running domain, and this one is not."""


class UnsupportedError(NotPossibleError):
    """This driver or this version of libvirt or QEMU cannot do it."""


class JobActiveError(NotPossibleError):
    """A migration, a save or the like is under way, and libvirt lets nothing be changed."""


class BusyError(NotPossibleError):
    """Another hibprep is at work on the domain."""


class NoAgentError(NotPossibleError):
    """There is no guest agent, or it does not answer."""


class AgentRefusedError(NotPossibleError):
    """The guest agent answered with an error, or the command is blocked there."""


class ChannelError(NotPossibleError):
    """hibprep's own channel is not there, in use, or does not answer."""


class DestinationError(NotPossibleError):
    """The destination cannot be reached, or does not take the guest."""


class NoRoomError(DestinationError):
    """The destination has not enough memory."""


class JobAbortedError(HibprepError):
    """A migration or a save was aborted: by a person, a time limit or the other side."""

    exit_code = ExitCode.PARTLY


class RecordMalformedError(HibprepError):
    """The undo record in a domain's metadata is not one that this version can read."""
