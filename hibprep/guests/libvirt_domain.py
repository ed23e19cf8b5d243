# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain through libvirt-python. Which of its functions do what is said at
https://libvirt.org/html/libvirt-libvirt-domain.html."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hibprep.errors import HibprepError
from hibprep.guests import libvirt_errors as errors
from hibprep.guests import libvirt_values as values
from hibprep.guests.errors import ChannelError, UnsupportedError
from hibprep.guests.hardware import read_hardware
from hibprep.guests.libvirt_stream import LibvirtChannel, Raw
from hibprep.guests.port import (
    NO_JOB,
    Channel,
    Domain,
    DomainInfo,
    Host,
    JobStats,
    MemoryStats,
    MigrateOptions,
)
from hibprep.kernel import guestram
from hibprep.kernel.root import KernelRoot

if TYPE_CHECKING:
    from hibprep.guests.connection import Library

_LIVE, _CONFIG = 1, 2  # virDomainModificationImpact
_ELEMENT = 2  # virDomainMetadataType
_BYPASS_CACHE = 1
_COMPLETED, _KEEP_COMPLETED = 1, 2  # virDomainGetJobStatsFlags
_NON_BLOCKING = 1
_LOCAL = re.compile(r"qemu(\+unix)?:///")

Translate = Callable[[str, int, str], HibprepError]


class LibvirtDomain:
    """`hibprep.guests.port.Domain`."""

    def __init__(self, library: Library, connection: Raw, raw: Raw) -> None:
        self._library = library
        self._connection = connection
        self._raw = raw
        self._name: str = self._call(raw.name)
        self._uuid: str = self._call(raw.UUIDString)

    @property
    def name(self) -> str:
        """See `Domain.name`."""
        return self._name

    @property
    def uuid(self) -> str:
        """See `Domain.uuid`."""
        return self._uuid

    def info(self) -> DomainInfo:
        """See `Domain.info`."""
        state, maximum_kib, actual_kib = self._call(self._raw.info)[:3]
        return DomainInfo(
            name=self._name,
            uuid=self._uuid,
            state=values.state(state),
            persistent=bool(self._call(self._raw.isPersistent)),
            maximum_bytes=maximum_kib * values.KIB,
            actual_bytes=actual_kib * values.KIB,
            has_managed_save=self._has_managed_save(),
            hardware=read_hardware(self.xml()),
        )

    def xml(self) -> str:
        """See `Domain.xml`."""
        return str(self._call(lambda: self._raw.XMLDesc(0)))

    def memory_stats(self) -> MemoryStats:
        """See `Domain.memory_stats`."""
        told = self._call(self._raw.memoryStats)
        actual_kib = told.get("actual") or self._call(self._raw.info)[2]
        return values.memory_stats(told, actual_kib)

    def content_bytes(self) -> int | None:
        """See `Domain.content_bytes`."""
        if not _LOCAL.match(str(self._call(self._connection.getURI))):
            return None
        root = KernelRoot()
        pid = guestram.find_emulator(root, self._uuid)
        maximum = int(self._call(self._raw.info)[1]) * values.KIB
        return None if pid is None else guestram.content_bytes(root, pid, maximum)

    def set_stats_period(self, seconds: int) -> None:
        """See `Domain.set_stats_period`."""
        self._call(lambda: self._raw.setMemoryStatsPeriod(seconds, _LIVE))

    def set_balloon(self, actual_bytes: int) -> None:
        """See `Domain.set_balloon`."""
        self._call(lambda: self._raw.setMemoryFlags(actual_bytes // values.KIB, _LIVE))

    def metadata(self, uri: str) -> str | None:
        """See `Domain.metadata`."""
        where = _LIVE if self._call(self._raw.isActive) else _CONFIG
        try:
            return str(self._raw.metadata(_ELEMENT, uri, where))
        except self._library.error as error:
            if error.get_error_code() == errors.NO_DOMAIN_METADATA:
                return None
            raise self._translated(errors.of_call, error) from error

    def set_metadata(self, uri: str, prefix: str, xml: str) -> None:
        """See `Domain.set_metadata`."""
        flags = self._where()
        self._call(lambda: self._raw.setMetadata(_ELEMENT, xml, prefix, uri, flags))

    def remove_metadata(self, uri: str) -> None:
        """See `Domain.remove_metadata`."""
        # one after the other: it may be in only one of them, and the order is that of the danger
        # (what is configured comes back with the next start)
        for flag in (_CONFIG, _LIVE):
            if not self._where() & flag:
                continue
            try:
                self._raw.setMetadata(_ELEMENT, None, None, uri, flag)
            except self._library.error as error:
                if error.get_error_code() != errors.NO_DOMAIN_METADATA:
                    raise self._translated(errors.of_call, error) from error

    def agent(self, command: str, arguments: Mapping[str, object], timeout_seconds: int) -> object:
        """See `Domain.agent`."""
        request: dict[str, object] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        text = json.dumps(request)
        answer = self._call(
            lambda: self._library.qemu.qemuAgentCommand(self._raw, text, timeout_seconds, 0),
            errors.of_agent,
        )
        try:
            return json.loads(answer).get("return")
        except (ValueError, AttributeError):
            raise errors.of_agent(self._name, 0, "an answer that is not JSON") from None

    def open_channel(self, name: str) -> Channel:
        """See `Domain.open_channel`."""
        try:
            stream = self._call(lambda: self._connection.newStream(_NON_BLOCKING))
            self._call(lambda: self._raw.openChannel(name, stream, 0))
        except HibprepError as error:
            raise ChannelError(error.message, error.remedy) from error
        return LibvirtChannel(f"{self._name}: {name}", stream, self._library.guard)

    def start(self) -> None:
        """See `Domain.start`."""
        self._call(self._raw.create)

    def managed_save(self, *, bypass_cache: bool = False) -> None:
        """See `Domain.managed_save`."""
        self._call(lambda: self._raw.managedSave(_BYPASS_CACHE if bypass_cache else 0))

    def remove_managed_save(self) -> None:
        """See `Domain.remove_managed_save`."""
        self._call(lambda: self._raw.managedSaveRemove(0))

    def migrate(self, destination: Host | None, uri: str, options: MigrateOptions) -> Domain | None:
        """See `Domain.migrate`."""
        flags = values.migrate_flags(options)
        parameters = values.migrate_parameters(options)
        if options.peer_to_peer:
            self._call(lambda: self._raw.migrateToURI3(uri, parameters, flags), errors.of_migration)
            return None
        there = self._library.raw_connection(destination)
        raw = self._call(lambda: self._raw.migrate3(there, parameters, flags), errors.of_migration)
        return LibvirtDomain(self._library, there, raw)

    def start_postcopy(self) -> None:
        """See `Domain.start_postcopy`."""
        self._call(lambda: self._raw.migrateStartPostCopy(0))

    def job(self) -> JobStats:
        """See `Domain.job`."""
        return self._job(0)

    def completed_job(self) -> JobStats:
        """See `Domain.completed_job`."""
        return self._job(_COMPLETED | _KEEP_COMPLETED)

    def abort_job(self) -> None:
        """See `Domain.abort_job`."""
        try:
            self._raw.abortJob()
        except self._library.error as error:
            if error.get_error_code() != errors.OPERATION_INVALID:  # no job is active
                raise self._translated(errors.of_call, error) from error

    def _job(self, flags: int) -> JobStats:
        try:
            return values.job_stats(self._raw.jobStats(flags))
        except self._library.error as error:
            if error.get_error_code() == errors.OPERATION_INVALID:  # it does not run
                return NO_JOB
            translated = self._translated(errors.of_call, error)
            if isinstance(translated, UnsupportedError):
                return NO_JOB
            raise translated from error

    def _has_managed_save(self) -> bool:
        try:
            return bool(self._call(lambda: self._raw.hasManagedSaveImage(0)))
        except UnsupportedError:
            return False

    def _where(self) -> int:
        active = self._call(self._raw.isActive)
        persistent = self._call(self._raw.isPersistent)
        return (_LIVE if active else 0) | (_CONFIG if persistent else 0)

    def _call(self, call: Callable[[], Raw], translate: Translate = errors.of_call) -> Raw:
        try:
            return call()
        except self._library.error as error:
            raise self._translated(translate, error) from error

    def _translated(self, translate: Translate, error: Raw) -> HibprepError:
        name = getattr(self, "_name", "the domain")
        return translate(name, error.get_error_code() or 0, error.get_error_message() or str(error))
