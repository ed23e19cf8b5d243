# SPDX-License-Identifier: LGPL-2.1-or-later
"""What past runs did: one report per line in `/var/lib/hibprep/history.jsonl`.

The history helps and is never in the way: what cannot be read or written is said in a note, and
the run that it tells of goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from hibprep.clock import Clock, SystemClock
from hibprep.kernel.durable import replace_durably
from hibprep.model import Report

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STATE_DIRECTORY = "var/lib/hibprep"
FILE_NAME = "history.jsonl"
LOCK_SECONDS = 2.0  # another run holds the lock for milliseconds; do not wait for a stuck one

Entry = TypeVar("Entry", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Kept:
    """The reports that could be read, oldest first, and what could not, in words."""

    reports: tuple[Report, ...] = ()
    skipped: int = 0  # lines that are no report
    note: str = ""


class Log(Generic[Entry]):
    """A file with a value per line, of which the latest `keep` are kept."""

    def __init__(
        self, path: Path, kind: type[Entry], keep: int = 100, clock: Clock | None = None
    ) -> None:
        self.path = path
        self._kind = kind
        self._keep = keep
        self._clock = clock or SystemClock()

    def append(self, entry: Entry) -> str:
        """Add one; returns a note when it was not written, "" when it was."""
        line = json.dumps(dataclasses.asdict(entry), separators=(",", ":")).encode() + b"\n"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(fcntl.LOCK_EX):
                self._write(line)
        except OSError as error:
            return f"not kept in the history: {self.path}: {error.strerror or error}"
        return ""

    def entries(self) -> tuple[tuple[Entry, ...], int, str]:
        """Everything that is kept, oldest first; how many lines could not be understood; and what
        went wrong, in words."""
        try:
            with self._locked(fcntl.LOCK_SH):
                lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return (), 0, ""
        except OSError as error:
            return (), 0, f"the history cannot be read: {self.path}: {error.strerror or error}"
        return self._parse(lines)

    def _parse(self, lines: list[bytes]) -> tuple[tuple[Entry, ...], int, str]:
        # `plan` and `prepare` never read: they need not wait for it
        from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

        adapter = TypeAdapter(self._kind)
        found: list[Entry] = []
        skipped = 0
        for line in filter(None, (line.strip() for line in lines)):
            try:
                found.append(adapter.validate_json(line))
            except ValidationError:
                skipped += 1
        note = ""
        if skipped:
            note = (
                f"{self.path}: {skipped} line{'' if skipped == 1 else 's'} of it "
                "could not be understood and left out"
            )
        return tuple(found), skipped, note

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        # the directory is locked and not the file, because the file may be replaced meanwhile
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = self._clock.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._clock.monotonic() >= deadline:
                        raise TimeoutError("another hibprep holds the lock") from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def _write(self, line: bytes) -> None:
        descriptor = os.open(
            self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with open(descriptor, "r+b", buffering=0) as file:  # noqa: PTH123
            old = file.read()
            # a line that a crash cut short must not swallow this one
            cut_short = bool(old) and not old.endswith(b"\n")
            kept = old.splitlines(keepends=True)
            if len(kept) < self._keep:
                file.write(b"\n" + line if cut_short else line)
                os.fsync(file.fileno())
                return
        self._replace(kept, line)

    def _replace(self, kept: list[bytes], line: bytes) -> None:
        """Drop the oldest; the file is replaced as a whole, so that a crash leaves one or other."""
        newest = kept[len(kept) - self._keep + 1 :] if self._keep > 1 else []
        text = b"".join(item if item.endswith(b"\n") else item + b"\n" for item in newest) + line
        replace_durably(self.path, text)


class History(Log[Report]):
    """The history under one root."""

    def __init__(self, root_prefix: str = "/", keep: int = 100, clock: Clock | None = None) -> None:
        super().__init__(
            Path(root_prefix or "/") / STATE_DIRECTORY / FILE_NAME, Report, keep, clock
        )

    def read(self) -> Kept:
        """Everything that is kept."""
        return Kept(*self.entries())

    def last(self) -> Kept:
        """The latest report alone, if there is one."""
        kept = self.read()
        return dataclasses.replace(kept, reports=kept.reports[-1:])
