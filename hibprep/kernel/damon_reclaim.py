# SPDX-License-Identifier: LGPL-2.1-or-later
"""DAMON_RECLAIM's module parameters (Documentation/admin-guide/mm/damon/reclaim.rst).

Inputs that are written while it runs are not in force before commit_inputs was set to Y and reads
N again, and must not be written in between. What was read last cannot be read back, so it is on
record in the run-time directory: with it, what was changed since can be told.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hibprep.damon.parameters import (
    DEFAULTS,
    PARAMETERS,
    STATISTICS,
    Value,
    kernel_text,
    parse_value,
)
from hibprep.damon.state import ReclaimState
from hibprep.errors import KernelFileError, KernelFileMissing, NotPossibleError
from hibprep.kernel.durable import replace_durably
from hibprep.kernel.knobs import BOOT_ID
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot, translate
from hibprep.kernel.text import malformed, signed, unsigned

PARAMETERS_DIRECTORY = "/sys/module/damon_reclaim/parameters"
COMMITTED = "/run/hibprep/damon-reclaim.json"
SINCE = "5.16"

_ENABLED, _COMMIT, _KDAMOND = "enabled", "commit_inputs", "kdamond_pid"
_POLL_SECONDS = 0.05
# Inputs are read again once an aggregation, or each time the watermarks are looked at; a kdamond
# in the middle of paging out comes to neither.
_COMMIT_SLACK_SECONDS = 10.0
_STOP_SECONDS = 30.0

Wait = Callable[[float], bool]  # waits so many seconds; True: stop waiting, at once


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change: inputs by name, and whether it is to be on afterwards (None: as it is)."""

    inputs: Mapping[str, Value]
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done: the files written, in order, with what was written."""

    writes: tuple[tuple[str, str], ...]
    committed: bool = False


def path_of(name: str) -> str:
    """The file of a parameter."""
    return f"{PARAMETERS_DIRECTORY}/{name}"


def missing_reason(root: KernelRoot) -> str:
    """Why this kernel has no DAMON_RECLAIM; "" when it has."""
    if root.is_dir(PARAMETERS_DIRECTORY):
        return ""
    return (
        f"no {PARAMETERS_DIRECTORY}: a kernel from {SINCE} on with CONFIG_DAMON_RECLAIM has it "
        "(Debian's from 6.12 on)"
    )


def read_reclaim(root: KernelRoot) -> ReclaimState:
    """All of it as it is now. Raises KernelFileMissing where there is none, KernelFileDenied
    without root."""
    inputs: dict[str, Value] = {}
    for name, parameter in PARAMETERS.items():
        path = path_of(name)
        try:
            inputs[name] = parse_value(replace(parameter, least=0), root.read(path))
        except KernelFileMissing:
            if name in ("min_age", "quota_sz"):  # as old as the module
                raise
        except ValueError as error:
            raise malformed(path, str(error), root.read(path)) from None
    return ReclaimState(
        inputs=inputs,
        enabled=_switch(root, _ENABLED),
        committing=_switch(root, _COMMIT, absent=False),
        kdamond_pid=signed(root.read(path_of(_KDAMOND)).strip(), path_of(_KDAMOND)),
        statistics={name: _statistic(root, name) for name in STATISTICS},
    )


def apply(root: KernelRoot, changes: Changes, wait: Wait) -> Applied:
    """Write what is to be changed, in the order that the document demands.

    Nothing but what differs is written; inputs are committed when it runs and stays on, the same
    ones too. When the kernel refuses one, those before it are put back, and the error says which.
    Raises NotPossibleError when it does not take them in time.
    """
    before = read_reclaim(root)
    wanted = before.enabled if changes.enabled is None else changes.enabled
    if before.committing:
        _until_committed(root, before, wait)
    run = _Writes(root)
    try:
        if before.enabled and not wanted:
            run.write(_ENABLED, "N")
            _until_stopped(root, wait)
        for name, value in changes.inputs.items():
            if before.inputs.get(name) != value:
                run.write(name, kernel_text(value))
        if wanted and not before.enabled:
            run.write(_ENABLED, "Y")
    except KernelFileError as error:
        run.put_back()
        raise _refusal(error) from error
    committed = before.enabled and wanted
    if committed:
        run.write(_COMMIT, "Y")
        _until_committed(root, before, wait)
        if not _switch(root, _ENABLED) or _pid(root) < 0:
            raise NotPossibleError(
                "DAMON_RECLAIM switched itself off: the kernel found its inputs not valid",
                "set them anew, and enabled=Y",
            )
    _remember(root)
    return Applied(tuple(run.done), committed)


def committed_inputs(root: KernelRoot, state: ReclaimState) -> Mapping[str, Value] | None:
    """The inputs that hibprep last had the running kdamond read; None when it is not known."""
    if state.kdamond_pid < 0:
        return None
    try:
        record = json.loads(root.path(COMMITTED).read_bytes())
        if record["kdamond"] != _identity(root, state.kdamond_pid):
            return None
        return {
            str(name): value
            for name, value in record["inputs"].items()
            if name in DEFAULTS and isinstance(value, int)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whoever reads it wants to know whether it tells, not why not


class _Writes:
    """Writes in a row, which can be put back."""

    def __init__(self, root: KernelRoot) -> None:
        self._root = root
        self._old: list[tuple[str, str]] = []
        self.done: list[tuple[str, str]] = []

    def write(self, name: str, text: str) -> None:
        path = path_of(name)
        old = self._root.read(path).strip()
        self._root.write(path, text)
        self._old.append((path, old))
        self.done.append((path, text))

    def put_back(self) -> None:
        """As it was, as far as the kernel lets us; the first refusal is what is reported."""
        for path, old in reversed(self._old):
            try:
                self._root.write(path, old)
            except KernelFileError:
                continue


def _refusal(error: KernelFileError) -> KernelFileError:
    if error.errno == errno.EBUSY:
        return KernelFileError(
            error.path,
            "another user of DAMON runs, and DAMON_RECLAIM wants it for itself; nothing is changed",
            error.errno,
            "hibprep damon show names it, and what to type",
        )
    if error.errno == errno.EINVAL:
        return KernelFileError(
            error.path, "this kernel does not take it; nothing is changed", error.errno
        )
    return error


def _until_committed(root: KernelRoot, state: ReclaimState, wait: Wait) -> None:
    slowest_us = max(state.inputs["aggr_interval"], state.inputs["wmarks_interval"])
    rounds = int((2 * slowest_us / 1e6 + _COMMIT_SLACK_SECONDS) / _POLL_SECONDS)
    for _ in range(rounds):
        if not _switch(root, _COMMIT):
            return
        if wait(_POLL_SECONDS):
            break
    if _switch(root, _COMMIT):
        raise NotPossibleError(
            "DAMON_RECLAIM has not read its inputs again in time: they are not in force yet",
            "hibprep damon show tells whether its thread runs",
        )


def _until_stopped(root: KernelRoot, wait: Wait) -> None:
    for _ in range(int(_STOP_SECONDS / _POLL_SECONDS)):
        if _pid(root) < 0 or wait(_POLL_SECONDS):
            return


def _remember(root: KernelRoot) -> None:
    """Keep what is in force now. Without the record it cannot be told what is changed later, which
    is no reason to fail."""
    state = read_reclaim(root)
    path = root.path(COMMITTED)
    try:
        if state.kdamond_pid < 0:
            path.unlink(missing_ok=True)
            return
        record = {"kdamond": _identity(root, state.kdamond_pid), "inputs": dict(state.inputs)}
        replace_durably(path, json.dumps(record).encode())
    except OSError as error:
        raise translate(COMMITTED, error) from error


def _identity(root: KernelRoot, pid: int) -> list[object]:
    """A thread that no other can be taken for."""
    return [(root.try_read(BOOT_ID) or "").strip(), pid, start_time(root, pid)]


def _switch(root: KernelRoot, name: str, *, absent: bool | None = None) -> bool:
    path = path_of(name)
    try:
        word = root.read(path).strip()
    except KernelFileMissing:
        if absent is None:
            raise
        return absent
    if word not in ("Y", "N"):
        raise malformed(path, "Y or N", word)
    return word == "Y"


def _pid(root: KernelRoot) -> int:
    return signed(root.read(path_of(_KDAMOND)).strip(), path_of(_KDAMOND))


def _statistic(root: KernelRoot, name: str) -> int:
    return unsigned(root.read(path_of(name)).strip(), path_of(name))
