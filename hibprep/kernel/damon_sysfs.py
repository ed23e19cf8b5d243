# SPDX-License-Identifier: LGPL-2.1-or-later
"""One kdamond of our own in DAMON's sysfs tree, made, changed, and taken away whatever happens.

Documentation/admin-guide/mm/damon/usage.rst ("sysfs Interface"), ABI/testing/sysfs-kernel-mm-damon.
Writing nr_kdamonds throws away all that are there, so the tree is only taken when it is empty. Ours
carries a mark that nobody else would write: the largest size of a region, a number that no region
reaches. The mark is on record before anything is made; what a killed run left is known by it, and
nothing else is ever taken away.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from hibprep.damon.pageout import Attributes, Scheme
from hibprep.errors import KernelFileError, KernelFileMissing, NotPossibleError
from hibprep.kernel.durable import replace_durably
from hibprep.kernel.knobs import BOOT_ID
from hibprep.kernel.patience import patiently
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot, translate

KDAMONDS = "/sys/kernel/mm/damon/admin/kdamonds"
STATE = f"{KDAMONDS}/0/state"
RECORD = "/run/hibprep/damon.json"
SINCE = "5.18"

_NR = f"{KDAMONDS}/nr_kdamonds"
_CONTEXT = f"{KDAMONDS}/0/contexts/0"
_SCHEMES = f"{_CONTEXT}/schemes"
_MARK = f"{_SCHEMES}/0/access_pattern/sz/max"
_MARKS_FROM, _MARKS = 1 << 62, 1 << 61  # larger than any memory, and each unlike the others

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stats:
    """What the schemes have done since they were made, all together."""

    tried_bytes: int = 0
    applied_bytes: int = 0
    quota_exceeds: int = 0


def refusal(root: KernelRoot) -> str:
    """Why the tree cannot be used; "" when it can."""
    if not root.exists(_NR):
        return f"no {KDAMONDS}: a kernel from {SINCE} on with CONFIG_DAMON_SYSFS has it"
    if not root.writable(_NR):
        return f"{_NR} cannot be written: be root, with /sys not mounted read-only"
    try:
        count = patiently(root.read, _NR).strip()
    except KernelFileError as error:
        return str(error)
    if count != "0":
        return f"{KDAMONDS} is in use (nr_kdamonds is {count}), and is not ours: end it there"
    return ""


class Kdamond:
    """Our own. `start` makes it, `change` alters its schemes, `take_away` ends it."""

    def __init__(self, root: KernelRoot, *, processes: KernelRoot | None = None) -> None:
        self._root = root
        self._processes = processes or KernelRoot()
        self._mark = 0

    @property
    def started(self) -> bool:
        """Whether there is something to be taken away."""
        return self._mark != 0

    def start(
        self, attributes: Attributes, ranges: Sequence[Range], schemes: Sequence[Scheme]
    ) -> None:
        """Make it and switch it on. Raises KernelFileError or NotPossibleError, with nothing left
        behind."""
        reason = refusal(self._root)
        if reason:
            raise NotPossibleError("DAMON", reason)
        self._mark = _MARKS_FROM + secrets.randbelow(_MARKS)
        self._record()
        try:
            self._make(attributes, ranges, schemes)
            patiently(self._root.write, STATE, "on")
        except KernelFileError:
            self.take_away()
            raise

    def write(self, schemes: Sequence[Scheme]) -> None:
        """Write the schemes, which are not in force before "commit" is written to `STATE`."""
        for number, scheme in enumerate(schemes):
            for name, text in scheme.files(self._mark):
                self._root.write(f"{_SCHEMES}/{number}/{name}", text)

    def is_ours(self) -> bool:
        """Whether it is still the one that was made, and runs."""
        if not _is_marked(self._root, self._mark):
            return False
        return (patiently(self._root.try_read, STATE) or "").strip() == "on"

    def stats(self, schemes: int) -> Stats:
        """As last asked for by writing "update_schemes_stats" to `STATE`."""
        found = [
            [self._number(f"{_SCHEMES}/{number}/stats/{name}") for number in range(schemes)]
            for name in ("sz_tried", "sz_applied", "qt_exceeds")
        ]
        return Stats(*(sum(each) for each in found))

    def take_away(self) -> list[str]:
        """End it and leave the tree empty; words for the report when that could not be."""
        if not self._mark:
            return []
        words = _take_away(self._root, self._mark)
        self._mark = 0
        return words

    def _make(
        self, attributes: Attributes, ranges: Sequence[Range], schemes: Sequence[Scheme]
    ) -> None:
        def write(path: str, text: str) -> None:
            patiently(self._root.write, path, text)

        write(_NR, "1")
        write(f"{KDAMONDS}/0/contexts/nr_contexts", "1")
        write(f"{_SCHEMES}/nr_schemes", str(len(schemes)))
        write(_MARK, str(self._mark))
        write(f"{_CONTEXT}/operations", "paddr")
        for name, text in attributes.files():
            write(f"{_CONTEXT}/monitoring_attrs/{name}", text)
        write(f"{_CONTEXT}/targets/nr_targets", "1")
        regions = f"{_CONTEXT}/targets/0/regions"
        write(f"{regions}/nr_regions", str(len(ranges)))
        for number, (start, end) in enumerate(ranges):
            write(f"{regions}/{number}/start", str(start))
            write(f"{regions}/{number}/end", str(end))
        for number, scheme in enumerate(schemes):
            self._filters(f"{_SCHEMES}/{number}", scheme)
        self.write(schemes)

    def _filters(self, directory: str, scheme: Scheme) -> None:
        """From 6.15 on those that look at pages have a directory of their own, and the old one is
        deprecated. Matching ones are left out, in both."""
        for name in ("ops_filters", "filters"):
            if not self._root.is_dir(f"{directory}/{name}"):
                continue
            number_of = f"{directory}/{name}/nr_filters"
            patiently(self._root.write, number_of, str(len(scheme.filters)))
            for number, each in enumerate(scheme.filters):
                place = f"{directory}/{name}/{number}"
                for file, text in each.files():
                    self._root.write(f"{place}/{file}", text)
            return
        raise KernelFileMissing(f"{directory}/filters", "no filters: kernels from 6.3 on have them")

    def _number(self, path: str) -> int:
        word = self._root.read(path).strip()
        return int(word) if word.isdigit() else 0

    def _record(self) -> None:
        pid = os.getpid()
        record = {
            "boot": (self._processes.try_read(BOOT_ID) or "").strip(),
            "pid": pid,
            "start": start_time(self._processes, pid) or 0,
            "mark": self._mark,
        }
        try:
            replace_durably(self._root.path(RECORD), json.dumps(record).encode())
        except OSError as error:
            raise translate(RECORD, error) from error


def recover(root: KernelRoot, *, processes: KernelRoot | None = None) -> list[str]:
    """Take away what a killed run left; words for the report."""
    processes = processes or KernelRoot()
    path = root.path(RECORD)
    try:
        record = json.loads(path.read_bytes())
        boot, pid = str(record["boot"]), int(record["pid"])
        start, mark = int(record["start"]), int(record["mark"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{RECORD} cannot be used ({error}): a kdamond that it tells of is left as it is"]
    if start_time(processes, pid) == start:
        return []  # its owner lives
    if boot != (processes.try_read(BOOT_ID) or "").strip():
        _forget(root)  # it ended with its boot
        return []
    return _take_away(root, mark) or ["a kdamond was ended and taken away"]


def _take_away(root: KernelRoot, mark: int) -> list[str]:
    try:
        count = patiently(root.read, _NR).strip()
        if count == "1" and _is_marked(root, mark):
            if patiently(root.read, STATE).strip() == "on":
                patiently(root.write, STATE, "off")
            patiently(root.write, _NR, "0")
        elif count == "1" and _is_bare(root):
            patiently(root.write, _NR, "0")
        elif count != "0":
            _forget(root)
            return [f"{KDAMONDS} is somebody else's now, and left as it is"]
    except KernelFileMissing:
        _forget(root)
        return []
    except KernelFileError as error:
        return [f"a kdamond of ours could not be ended: {error}"]
    _forget(root)
    return []


def _is_marked(root: KernelRoot, mark: int) -> bool:
    return (root.try_read(_MARK) or "").strip() == str(mark)


def _is_bare(root: KernelRoot) -> bool:
    """Whether it has no scheme yet, and does not run: what there is of ours before it is marked."""
    if (patiently(root.try_read, STATE) or "").strip() != "off":
        return False
    schemes = (patiently(root.try_read, f"{_SCHEMES}/nr_schemes") or "0").strip()
    return schemes == "0" or (root.try_read(_MARK) or "0").strip() == "0"


def _forget(root: KernelRoot) -> None:
    try:
        root.path(RECORD).unlink(missing_ok=True)
    except OSError:
        return  # a record of what is gone is found to be of no use by the next start
