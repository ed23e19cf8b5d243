# SPDX-License-Identifier: LGPL-2.1-or-later
"""What libvirt says went wrong, as one of our errors with a remedy. Pure.

The codes are virErrorNumber of include/libvirt/virterror.h; by number, since a binding that is
older than the library lacks the names of the newer ones.
"""

from __future__ import annotations

import re

from hibprep.errors import HibprepError
from hibprep.guests.errors import (
    AgentRefusedError,
    ConnectionFailedError,
    DestinationError,
    GuestError,
    JobAbortedError,
    JobActiveError,
    NoAgentError,
    NoRoomError,
    NoSuchDomainError,
    NotRunningError,
    UnsupportedError,
)

NO_DOMAIN = 42
OPERATION_INVALID = 55
NO_DOMAIN_METADATA = 80

_NO_MEMORY = 2
_NO_SUPPORT = frozenset({3, 67, 74, 84})  # driver, configuration, argument, operation
# unknown host, no connection, invalid connection, RPC, TLS, ssh, libssh
_NO_CONNECTION = frozenset({4, 5, 6, 39, 40, 85, 98})
_NOT_ALLOWED = frozenset({45, 79, 88, 94})  # authentication, access denied
_TIMED_OUT = 68  # "cannot acquire state change lock": somebody else's job is in the way
_ABORTED = 78
_UNSAFE = 81
_AGENT_SILENT = frozenset({86, 97, 112})  # unresponsive, unsynchronised, command timeout (11.2)

_NO_ROOM = re.compile(
    r"cannot allocate memory|cannot set up guest memory|out of memory", re.IGNORECASE
)
_LOCK = re.compile(r"cannot acquire (state change|job)|state change lock", re.IGNORECASE)
_NOT_RUNNING = re.compile(r"domain is not running|not active", re.IGNORECASE)
# what was said by, or about, the way to the other host
_OTHER_SIDE = re.compile(
    r"unable to connect to server|failed to connect to remote|cannot recv data|"
    r"unable to resolve|no route to host|connection refused|operation failed: migration|"
    r"same host|hook script|destination|process exited|migrate-incoming|failed to bind",
    re.IGNORECASE,
)
# the command with its whole environment comes before what the script said, which is what counts
_HOOK = re.compile(
    r"hook script execution failed.*?exit status (?P<code>\d+):?(?P<said>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SAME_HOST = re.compile(r"same host", re.IGNORECASE)
# a connection that breaks has the code of whatever was noticed first
_LOST = re.compile(
    r"socket is closed|end of file while reading|cannot (recv|write) data|connection reset|"
    r"broken pipe|keepalive|connection closed",
    re.IGNORECASE,
)


def of_connection(uri: str, code: int, message: str) -> HibprepError:
    """For what went wrong when a connection was made."""
    said = one_line(message)
    remedy = "is libvirtd there, and the URI right? https://libvirt.org/uri.html"
    if code in _NOT_ALLOWED or "Permission denied" in said:
        remedy = "run as root, or as a member of the group libvirt"
    elif "no connection driver available" in said or "unknown driver" in said:
        remedy = "give one such as qemu:///system or qemu+ssh://HOST/system"
    return ConnectionFailedError(f"{uri}: {said}", remedy)


def of_call(name: str, code: int, message: str) -> HibprepError:
    """For what went wrong with a domain, or (`name` is a URI) with a host."""
    said = one_line(message)
    what = f"{name}: {said}"
    if code == NO_DOMAIN:
        return NoSuchDomainError(f"{name} is not there any more", "see `hibprep guest list`")
    if code == _TIMED_OUT or _LOCK.search(said):
        return JobActiveError(what, "wait until the job that is under way has ended")
    if code == OPERATION_INVALID and _NOT_RUNNING.search(said):
        return NotRunningError(what, "start it")
    if code in _NO_SUPPORT:
        return UnsupportedError(what, "this driver, or this version of libvirt or QEMU, cannot")
    if code in _NO_CONNECTION or _LOST.search(said):
        return ConnectionFailedError(what, "is libvirtd there?")
    if code == _ABORTED:
        return JobAbortedError(what)
    return GuestError(what)


def of_agent(name: str, code: int, message: str) -> HibprepError:
    """For what the guest agent, or libvirt in its place, answered."""
    said = one_line(message)
    if code in _AGENT_SILENT:
        return NoAgentError(
            f"{name}: the guest agent does not answer ({said})",
            "is qemu-guest-agent running in the guest?",
        )
    if code in _NO_SUPPORT:
        return NoAgentError(f"{name}: {said}", "install qemu-guest-agent in the guest")
    if code in (OPERATION_INVALID, _TIMED_OUT, NO_DOMAIN) or _LOST.search(said):
        return NoAgentError(f"{name}: {said}")
    return AgentRefusedError(f"{name}: {said}")


def of_migration(name: str, code: int, message: str) -> HibprepError:
    """For what a migration ended with; the guest goes on running where it was."""
    if hook := _HOOK.search(message):
        why = one_line(hook["said"]) or f"exit code {hook['code']}"
        return DestinationError(
            f"{name}: a hook of libvirt on the destination refused it: {why}",
            "see /etc/libvirt/hooks there",
        )
    said = one_line(message)
    what = f"{name}: {said}"
    if code == _NO_MEMORY or _NO_ROOM.search(said):
        return NoRoomError(what, "free memory on the destination, or choose another")
    if code == _ABORTED or "canceled by client" in said:
        return JobAbortedError(what)
    if code == _UNSAFE:
        remedy = "set cache='none' for its disks, or --unsafe where the storage is coherent"
        return UnsupportedError(what, remedy)
    if _SAME_HOST.search(said):
        return DestinationError(what, "give another host's URI")
    other = of_call(name, code, message)
    if isinstance(other, ConnectionFailedError | GuestError) and (
        code in _NO_CONNECTION or _OTHER_SIDE.search(said)
    ):
        return DestinationError(what, "can this host reach the destination, and its QEMU's port?")
    return other


def one_line(message: str) -> str:
    """A text of libvirt, which may hold QEMU's whole log, as one line."""
    line = " ".join(message.split())
    return line if len(line) <= 400 else f"{line:.400}…"  # noqa: PLR2004 - a line or two
