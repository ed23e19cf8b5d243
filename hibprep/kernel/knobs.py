# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings that are changed for a while, and put back whatever happens.

The old value is on record before the new one is written (one JSON file per process in the run-time
directory), so that the next start can put back what a killed process left behind. Values are put
back only while they still are what was written: a setting that somebody else has changed since
(Documentation/admin-guide/sysctl/vm.rst, Documentation/ABI/testing/sysfs-power) is theirs.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Self

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMalformed, KernelFileMissing
from hibprep.kernel.power import parse_selection
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot, translate
from hibprep.model import KnobChange

BOOT_ID = "/proc/sys/kernel/random/boot_id"

_VERSION = 1
_NAME = re.compile(r"knobs-([0-9]{1,10})-([0-9]{1,20})\.json", re.ASCII)
_TEMPORARY = re.compile(r"knobs-([0-9]{1,10})-([0-9]{1,20})\.new", re.ASCII)
_NUMBER = re.compile(r"-?(0x[0-9a-f]{1,16}|[0-9]{1,20})", re.ASCII | re.IGNORECASE)
_YES = frozenset({"y", "yes", "on", "true"})
_NO = frozenset({"n", "no", "off", "false"})
_SYSCTL = "/proc/sys/"


def selected(text: str) -> str:
    """What a settings file is set to: the word in brackets where there is one."""
    return parse_selection(text).selected or text.strip()


def equivalent(a: str, b: str) -> bool:
    """Whether two texts are the same setting: numbers in any notation, switches as Y, 1 or a set
    of bits (lru_gen's "y" reads back as 0x0007), the chosen word with or without the others."""
    first, second = selected(a).split(), selected(b).split()
    return len(first) == len(second) and all(map(_same_word, first, second))


def knob_name(path: str) -> str:
    """What people call the setting: "vm.swappiness", or the path."""
    if path.startswith(_SYSCTL):
        return path.removeprefix(_SYSCTL).replace("/", ".")
    return path


def _same_word(a: str, b: str) -> bool:
    a, b = a.lower(), b.lower()
    if a == b:
        return True
    left, right = _switch(a), _switch(b)
    if left is not None and right is not None:
        return left == right
    if _NUMBER.fullmatch(a) and _NUMBER.fullmatch(b):
        return _number(a) == _number(b)
    if left is not None and _NUMBER.fullmatch(b):
        return left == bool(_number(b))
    if right is not None and _NUMBER.fullmatch(a):
        return right == bool(_number(a))
    return False


def _switch(word: str) -> bool | None:
    if word in _YES:
        return True
    return False if word in _NO else None


def _number(word: str) -> int:
    return int(word, 16) if "x" in word else int(word)


@dataclass(slots=True)
class _Entry:
    path: str
    old: str
    written: list[str] = field(default_factory=list)  # the last is the one meant to be in force
    reason: str = ""


class KnobJournal:
    """The changes of this process. As a context manager it puts them back at the end.

    `processes` is where processes and the boot are looked up, which is the running kernel even
    when `root` is not: owners are real.
    """

    def __init__(
        self,
        root: KernelRoot,
        directory: str = "/run/hibprep",
        *,
        processes: KernelRoot | None = None,
    ) -> None:
        self._root = root
        self._processes = processes or KernelRoot()
        self._directory = directory
        self._pid = os.getpid()
        self._start = start_time(self._processes, self._pid) or 0
        self._boot = (self._processes.try_read(BOOT_ID) or "").strip()
        self._name = f"knobs-{self._pid}-{self._start}"
        self._entries: list[_Entry] = []

    def set(self, path: str, value: str, reason: str) -> None:
        """Set `path` to `value`. When this raises, the setting is as it was, or it is on record
        and will be put back with the others."""
        current = selected(self._root.read(path))
        entry = next((each for each in self._entries if each.path == path), None)
        if entry is not None and not any(equivalent(current, each) for each in entry.written):
            # somebody else set it since: theirs is what has to come back
            entry.old, entry.written = current, []
        if entry is None:
            if equivalent(current, value):
                return
            entry = _Entry(path=path, old=current)
            self._entries.append(entry)
        # what is in force now stays on record beside the new value: a kill may come in between
        entry.written.append(value)
        entry.reason = reason
        try:
            self._save()
        except KernelFileError:
            self._forget_last(entry)
            raise
        try:
            self._root.write(path, value)
            self._verify(path, value)
        except KernelFileError:
            self._undo(entry, current)
            raise
        entry.written[:] = [value]

    def pending(self) -> tuple[KnobChange, ...]:
        """What is changed at present."""
        return tuple(
            KnobChange(path=each.path, value=each.written[-1], reason=each.reason)
            for each in self._entries
        )

    def restore_all(self) -> list[str]:
        """Put everything back, the last change first; words for the report. What cannot be put
        back stays on record."""
        words, left = self._restore(self._entries)
        self._entries = left
        try:
            self._save()
        except KernelFileError as error:
            words.append(f"the record of changed settings could not be brought up to date: {error}")
        return words

    def put_back(self, path: str) -> list[str]:
        """Put one setting back before the others; words for the report."""
        words, left = self._restore([each for each in self._entries if each.path == path])
        self._entries = [each for each in self._entries if each.path != path or each in left]
        try:
            self._save()
        except KernelFileError as error:
            # what is on record too much is compared, found in place and passed over later
            words.append(f"the record of changed settings could not be brought up to date: {error}")
        return words

    def recover(self) -> list[str]:
        """Put back what processes that were killed have left; words for the report."""
        try:
            names = self._root.listdir(self._directory)
        except KernelFileMissing:
            return []
        except KernelFileError as error:
            return [f"changed settings of earlier runs could not be looked for: {error}"]
        words: list[str] = []
        for name in names:
            half_written = _TEMPORARY.fullmatch(name)
            if half_written and not self._alive(half_written):
                # the write that it was to record had not begun
                self._remove(name, words)
            found = _NAME.fullmatch(name)
            if found and not self._alive(found):
                self._recover(name, words)
        return words

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore_all()

    # --- putting back ---------------------------------------------------------------------------

    def _restore(self, entries: list[_Entry]) -> tuple[list[str], list[_Entry]]:
        words: list[str] = []
        left: list[_Entry] = []
        for entry in reversed(entries):
            try:
                words += self._restore_one(entry)
            except KernelFileMissing:
                words.append(f"{knob_name(entry.path)} is gone: nothing to put back")
            except KernelFileError as error:
                words.append(
                    f"{knob_name(entry.path)} could not be put back to {entry.old}: {error}"
                )
                left.append(entry)
        left.reverse()
        return words, left

    def _restore_one(self, entry: _Entry) -> list[str]:
        name = knob_name(entry.path)
        current = selected(self._root.read(entry.path))
        if not any(equivalent(current, each) for each in entry.written):
            if equivalent(current, entry.old):
                return []
            return [f"{name} left at {current}: somebody else has set it since"]
        if current == entry.old:
            return []
        self._root.write(entry.path, entry.old)
        self._verify(entry.path, entry.old)
        return [f"{name} put back to {entry.old}"]

    def _verify(self, path: str, value: str) -> None:
        read_back = selected(self._root.read(path))
        if not equivalent(read_back, value):
            raise KernelFileError(path, f"was set to {value} and reads {read_back}")

    def _undo(self, entry: _Entry, before: str) -> None:
        """After a failed set: back to what it was, and off the record if that is certain."""
        try:
            if not equivalent(self._root.read(entry.path), before):
                self._root.write(entry.path, before)
                self._verify(entry.path, before)
        except KernelFileError:
            return
        self._forget_last(entry)
        try:
            self._save()
        except KernelFileError:
            # what is on record too much is compared, found in place and passed over later
            return

    def _forget_last(self, entry: _Entry) -> None:
        entry.written.pop()
        if not entry.written:
            self._entries.remove(entry)

    # --- the record -----------------------------------------------------------------------------

    def _save(self) -> None:
        """Bring the file up to date, on the disk before this returns."""
        directory = self._root.path(self._directory)
        final, temporary = directory / f"{self._name}.json", directory / f"{self._name}.new"
        try:
            if self._entries:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write_durably(str(temporary), self._document())
                temporary.replace(final)
            else:
                final.unlink(missing_ok=True)
            if directory.is_dir():
                _sync_directory(str(directory))
        except OSError as error:
            raise translate(f"{self._directory}/{self._name}.json", error) from error

    def _document(self) -> bytes:
        document = {
            "version": _VERSION,
            "pid": self._pid,
            "start": self._start,
            "boot": self._boot,
            "entries": [asdict(each) for each in self._entries],
        }
        return json.dumps(document, indent=1).encode()

    def _alive(self, match: re.Match[str]) -> bool:
        try:
            return start_time(self._processes, int(match[1])) == int(match[2])
        except (KernelFileDenied, KernelFileMalformed):
            # there is something of that number: better not to meddle
            return True
        except KernelFileError:
            return True

    def _recover(self, name: str, words: list[str]) -> None:
        path = f"{self._directory}/{name}"
        try:
            boot, entries = parse_journal(path, self._root.path(path).read_bytes())
        except OSError as error:
            words.append(f"{translate(path, error)}: settings that it tells of stay as they are")
            return
        except KernelFileMalformed as error:
            self._put_aside(name, error, words)
            return
        left: list[_Entry] = []
        if boot == self._boot:
            # settings of another boot ended with it
            restored, left = self._restore(entries)
            words += restored
        if not left:
            self._remove(name, words)

    def _put_aside(self, name: str, error: KernelFileMalformed, words: list[str]) -> None:
        path = self._root.path(f"{self._directory}/{name}")
        try:
            path.replace(path.with_suffix(".corrupt"))
        except OSError as failure:
            words.append(f"{error}; and it could not be renamed: {failure.strerror}")
            return
        words.append(f"{error}; renamed to {path.with_suffix('.corrupt').name}, nothing put back")

    def _remove(self, name: str, words: list[str]) -> None:
        path = f"{self._directory}/{name}"
        try:
            self._root.path(path).unlink(missing_ok=True)
        except OSError as error:
            words.append(str(translate(path, error)))


def parse_journal(path: str, data: bytes) -> tuple[str, list[_Entry]]:
    """The boot and the changes of a journal file, of which nothing is believed: its values are
    written to kernel files by root."""
    try:
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise KernelFileMalformed(path, f"is of version {document['version']!r}")
        boot = _text(document["boot"])
        entries = [
            _Entry(
                path=_kernel_path(each["path"]),
                old=_text(each["old"]),
                written=[_text(value) for value in each["written"]],
                reason=_text(each["reason"]),
            )
            for each in document["entries"]
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KernelFileMalformed(path, f"is no record of changed settings ({error})") from error
    return boot, entries


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _kernel_path(value: object) -> str:
    text = _text(value)
    if not text.startswith(("/proc/", "/sys/")) or ".." in text.split("/") or "\0" in text:
        raise ValueError(f"{text!r} is not a kernel file")
    return text


def _write_durably(path: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
