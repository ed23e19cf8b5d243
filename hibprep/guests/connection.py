# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host through libvirt-python; the only place that imports it, and not before it is wanted.

The event loop of libvirt runs in a thread, as soon as there is a connection: events come through
it, what comes over channels does, and it is what finds out that a libvirtd does not answer any more
(keepalive), which ends the calls that wait for it.
"""

from __future__ import annotations

import contextlib
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

from hibprep.errors import HibprepError
from hibprep.guests import libvirt_errors as errors
from hibprep.guests import libvirt_values as values
from hibprep.guests.calls import NoAnswerError, within
from hibprep.guests.errors import (
    ConnectionFailedError,
    GuestError,
    LibvirtMissingError,
    NoSuchDomainError,
    UnsupportedError,
)
from hibprep.guests.libvirt_domain import LibvirtDomain
from hibprep.guests.libvirt_stream import Raw
from hibprep.guests.port import Domain, EventKind, GuestEvent, Host

DEFAULT_URI = "qemu:///system"
OPEN_SECONDS = 30.0
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 4
_ACTIVE = 1  # virConnectListAllDomainsFlags
_ALL_NODES = -1
_SHOWN_NAMES = 8
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_AGENT_CONNECTED = 1  # virConnectDomainEventAgentLifecycleState


class Library:
    """libvirt-python, and what its errors become."""

    def __init__(self, module: ModuleType, qemu: ModuleType) -> None:
        self.module = module
        self.qemu = qemu
        self.error: Raw = module.libvirtError

    def guard(self, name: str, call: Callable[[], Raw]) -> Raw:
        """What `call` returns; what it raises as our error about `name`."""
        try:
            return call()
        except self.error as error:
            raise self.translated(name, error) from error

    @staticmethod
    def translated(name: str, error: Raw) -> HibprepError:
        """The error for a domain or a host of that name."""
        said = error.get_error_message() or str(error)
        return errors.of_call(name, error.get_error_code() or 0, said)

    @staticmethod
    def raw_connection(host: Host | None) -> Raw:
        """What libvirt-python has for a host of this module."""
        if not isinstance(host, LibvirtHost):
            raise GuestError("a direct migration needs a connection to the destination")
        return host.raw


@cache
def _library() -> Library:
    try:
        import libvirt  # noqa: PLC0415
        import libvirt_qemu  # noqa: PLC0415
    except ImportError as error:
        raise LibvirtMissingError(
            f"the Python binding of libvirt is not there ({error})",
            "apt install python3-libvirt; or pip install 'hibprep[libvirt]', which needs "
            "libvirt-dev, pkg-config and gcc",
        ) from None
    # else every error is printed on stderr as well, by the library
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt events", daemon=True).start()
    return Library(libvirt, libvirt_qemu)


def connect(uri: str = DEFAULT_URI) -> Host:
    """The host at that URI. LibvirtMissingError, ConnectionFailedError."""
    library = _library()
    try:
        raw = within(OPEN_SECONDS, lambda: library.module.open(uri), f"connecting to {uri}")
    except NoAnswerError:
        raise ConnectionFailedError(
            f"{uri}: no answer after {OPEN_SECONDS:.0f} s", "is the host up, and libvirtd there?"
        ) from None
    except library.error as error:
        raise _not_connected(uri, error) from error
    return LibvirtHost(library, uri, raw)


def _not_connected(uri: str, error: Raw) -> HibprepError:
    said = error.get_error_message() or str(error)
    return errors.of_connection(uri, error.get_error_code() or 0, said)


class LibvirtHost:
    """`hibprep.guests.port.Host`."""

    def __init__(self, library: Library, uri: str, raw: Raw) -> None:
        self._library = library
        self._uri = uri
        self.raw = raw
        # a driver inside this process cannot be lost, and says so
        with contextlib.suppress(UnsupportedError):
            self._call(lambda: raw.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT))

    @property
    def uri(self) -> str:
        """See `Host.uri`."""
        return self._uri

    def uuid(self) -> str:
        """See `Host.uuid`."""
        capabilities = self._call(self.raw.getCapabilities)
        try:
            found = ET.fromstring(capabilities).findtext("./host/uuid")  # noqa: S314
        except ET.ParseError as error:
            raise GuestError(f"{self._uri}: its capabilities are not XML ({error})") from None
        return (found or "").strip()

    def hostname(self) -> str:
        """See `Host.hostname`."""
        return str(self._call(self.raw.getHostname))

    def free_bytes(self) -> int | None:
        """See `Host.free_bytes`. What the kernel drops when it is asked for memory is in it."""
        try:
            told = self._call(lambda: self.raw.getMemoryStats(_ALL_NODES, 0))
        except UnsupportedError:
            return None
        return values.KIB * int(sum(told.get(name, 0) for name in ("free", "buffers", "cached")))

    def domains(self, *, active: bool = False) -> tuple[Domain, ...]:
        """See `Host.domains`."""
        found = []
        for raw in self._call(lambda: self.raw.listAllDomains(_ACTIVE if active else 0)):
            try:
                found.append(self._domain(raw))
            except NoSuchDomainError:
                continue  # it went away after it was listed
        return tuple(sorted(found, key=lambda domain: domain.name))

    def find(self, name_or_uuid: str) -> Domain:
        """See `Host.find`."""
        ways = [self.raw.lookupByName]
        if _UUID.fullmatch(name_or_uuid):
            ways.insert(0, self.raw.lookupByUUIDString)
        for way in ways:
            try:
                return self._domain(self._call(partial(way, name_or_uuid)))
            except NoSuchDomainError:
                continue
        names = [domain.name for domain in self.domains()]
        more = ", …" if len(names) > _SHOWN_NAMES else ""
        there = f"there are {', '.join(names[:_SHOWN_NAMES])}{more}" if names else "it has none"
        raise NoSuchDomainError(f"{self._uri} has no domain {name_or_uuid!r}", there)

    def watch(self, on_event: Callable[[GuestEvent], None]) -> Callable[[], None]:
        """See `Host.watch`."""
        module = self._library.module
        kinds: dict[int, Callable[..., GuestEvent | None]] = {
            module.VIR_DOMAIN_EVENT_ID_LIFECYCLE: _on_lifecycle,
            module.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED: _on_job,
            module.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE: _on_agent,
            module.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION: _on_iteration,
            module.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE: _on_balloon,
            module.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE: _on_metadata,
        }
        numbers: list[int] = []

        def end() -> None:
            while numbers:
                number = numbers.pop()
                with contextlib.suppress(HibprepError):  # a lost connection has none
                    self._call(partial(self.raw.domainEventDeregisterAny, number))
            # the library holds the connection for it, and would never close it
            with contextlib.suppress(HibprepError):
                self._call(self.raw.unregisterCloseCallback)

        def listener(read: Callable[..., GuestEvent | None]) -> Callable[..., None]:
            def hear(_connection: Raw, raw: Raw, *told: Raw) -> None:
                event = read(raw.name(), raw.UUIDString(), *told[:-1])
                if event is not None:
                    on_event(event)

            return hear

        for kind, read in kinds.items():
            register = partial(self.raw.domainEventRegisterAny, None, kind, listener(read), None)
            try:
                numbers.append(self._call(register))
            except UnsupportedError:
                continue  # this driver has no such event
        with contextlib.suppress(UnsupportedError):  # as above
            self._call(
                lambda: self.raw.registerCloseCallback(
                    lambda *_told: on_event(GuestEvent(kind=EventKind.LOST)), None
                )
            )
        return end

    def close(self) -> None:
        """See `Host.close`."""
        try:
            self.raw.close()
        except self._library.error:
            return  # it is gone already, and that is what was wanted

    def _domain(self, raw: Raw) -> Domain:
        return LibvirtDomain(self._library, self.raw, raw)

    def _call(self, call: Callable[[], Raw]) -> Raw:
        return self._library.guard(self._uri, call)


def _on_lifecycle(name: str, uuid: str, event: int, detail: int) -> GuestEvent | None:
    known = values.lifecycle(event, detail)
    if known is None:
        return None
    return GuestEvent(kind=known[0], name=name, uuid=uuid, detail=known[1])


def _on_job(name: str, uuid: str, told: dict[str, object]) -> GuestEvent:
    job = values.finished(told)
    return GuestEvent(kind=EventKind.JOB_COMPLETED, name=name, uuid=uuid, job=job)


def _on_agent(name: str, uuid: str, state: int, _reason: int) -> GuestEvent:
    connected = state == _AGENT_CONNECTED
    kind = EventKind.AGENT_CONNECTED if connected else EventKind.AGENT_DISCONNECTED
    return GuestEvent(kind=kind, name=name, uuid=uuid)


def _on_iteration(name: str, uuid: str, number: int) -> GuestEvent:
    return GuestEvent(kind=EventKind.ITERATION, name=name, uuid=uuid, number=number)


def _on_balloon(name: str, uuid: str, actual_kib: int) -> GuestEvent:
    return GuestEvent(
        kind=EventKind.BALLOON_CHANGED, name=name, uuid=uuid, number=actual_kib * values.KIB
    )


def _on_metadata(name: str, uuid: str, _kind: int, namespace: str | None) -> GuestEvent:
    return GuestEvent(kind=EventKind.METADATA_CHANGED, name=name, uuid=uuid, detail=namespace or "")
