# SPDX-License-Identifier: LGPL-2.1-or-later
"""DAMON's sysfs tree on a fake machine: directories that come and go with the numbers written, and
a kdamond that pages out what is cold, by schemes with filters and quotas.

After mm/damon/sysfs.c. Time is the machine's; what a kdamond did is reckoned when its files are
looked at.
"""

from __future__ import annotations

import errno
from functools import partial

from tests.fakes.damon import FakeDamonReclaim
from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeCgroup, failure

KDAMONDS = "/sys/kernel/mm/damon/admin/kdamonds"
KDAMOND = f"{KDAMONDS}/0"
CONTEXT = f"{KDAMOND}/contexts/0"
PID = 668

_SCHEME = {
    "action": "stat",
    "access_pattern/sz/min": "0",
    "access_pattern/sz/max": "0",
    "access_pattern/nr_accesses/min": "0",
    "access_pattern/nr_accesses/max": "0",
    "access_pattern/age/min": "0",
    "access_pattern/age/max": "0",
    "quotas/ms": "0",
    "quotas/bytes": "0",
    "quotas/reset_interval_ms": "0",
    "quotas/weights/age_permil": "0",
    "apply_interval_us": "0",
    "watermarks/metric": "none",
}
_STATS = ("nr_tried", "sz_tried", "nr_applied", "sz_applied", "qt_exceeds")
_ACTIONS = frozenset({"pageout", "stat", "lru_prio", "lru_deprio"})


class FakeDamonTree:
    """The tree of a machine, and what runs in it. `modules` holds what runs beside it."""

    def __init__(self, machine: FakeMachine, modules: FakeDamonReclaim) -> None:
        self.machine = machine
        self.modules = modules
        self.values: dict[str, str] = {}
        self.running = False
        self.contended = False  # every third time the kdamond has the tree's lock
        self._tried = 0
        self.busy = 0  # so many commands find somebody else looking at the tree
        self.commands: list[str] = []
        self.paged_out: dict[str, int] = {}
        self._in_force: dict[str, str] = {}
        self._begin = self._last = 0.0
        self._applied: dict[int, int] = {}
        self._count(KDAMONDS, "nr_kdamonds", self._make_kdamonds)

    # --- directories ----------------------------------------------------------------------------

    def _file(self, path: str, value: str) -> None:
        self.values[path] = value
        self.machine.add_file(path, lambda: f"{self.values[path]}\n", partial(self._set, path))

    def _set(self, path: str, text: str) -> None:
        word = text.strip()
        name = path.rpartition("/")[2]
        if name == "action" and word not in _ACTIONS:
            raise failure(errno.EINVAL)
        if name == "operations" and word not in ("vaddr", "fvaddr", "paddr"):
            raise failure(errno.EINVAL)
        if self.values[path].isdigit() and not word.isdigit():
            raise failure(errno.EINVAL)
        if name in ("sample_us", "aggr_us"):
            of = {**self.values, path: word}
            start = path.rpartition("/")[0]
            if int(of[f"{start}/sample_us"]) > int(of[f"{start}/aggr_us"]):
                raise failure(errno.EINVAL)
        self.values[path] = word

    def _count(self, directory: str, name: str, make: object) -> None:
        path = f"{directory}/{name}"
        self.values[path] = "0"

        def write(text: str) -> None:
            self._lock()
            if not text.strip().isdigit():
                raise failure(errno.EINVAL)
            number = int(text)
            if self.running:
                raise failure(errno.EBUSY)
            if name in ("nr_kdamonds", "nr_contexts") and number > 1:
                raise failure(errno.EINVAL)
            for old in range(int(self.values[path])):
                self._remove(f"{directory}/{old}")
            self.values[path] = str(number)
            for new in range(number):
                make(f"{directory}/{new}")  # type: ignore[operator]  # one of the methods below

        self.machine.add_file(path, lambda: f"{self.values[path]}\n", write)

    def _remove(self, directory: str) -> None:
        self.machine.remove_files(directory)
        for path in [each for each in self.values if each.startswith(f"{directory}/")]:
            del self.values[path]

    def _make_kdamonds(self, directory: str) -> None:
        self.machine.add_file(f"{directory}/state", self._state, self._command)
        self.machine.add_file(f"{directory}/pid", lambda: f"{PID if self.running else -1}\n")
        self._count(f"{directory}/contexts", "nr_contexts", self._make_context)

    def _make_context(self, directory: str) -> None:
        self._file(f"{directory}/operations", "vaddr")
        attributes = f"{directory}/monitoring_attrs"
        for name, value in (
            ("sample_us", "5000"),
            ("aggr_us", "100000"),
            ("update_us", "60000000"),
        ):
            self._file(f"{attributes}/intervals/{name}", value)
        self._file(f"{attributes}/nr_regions/min", "10")
        self._file(f"{attributes}/nr_regions/max", "1000")
        self._count(f"{directory}/targets", "nr_targets", self._make_target)
        self._count(f"{directory}/schemes", "nr_schemes", self._make_scheme)

    def _make_target(self, directory: str) -> None:
        self._file(f"{directory}/pid_target", "0")
        self._count(f"{directory}/regions", "nr_regions", self._make_region)

    def _make_region(self, directory: str) -> None:
        self._file(f"{directory}/start", "0")
        self._file(f"{directory}/end", "0")

    def _make_scheme(self, directory: str) -> None:
        for name, value in _SCHEME.items():
            self._file(f"{directory}/{name}", value)
        for name in _STATS:
            self._file(f"{directory}/stats/{name}", "0")
        filters = "ops_filters" if self.machine.kernel >= (6, 15) else "filters"
        self._count(f"{directory}/{filters}", "nr_filters", self._make_filter)

    def _make_filter(self, directory: str) -> None:
        self._file(f"{directory}/type", "anon")
        self._file(f"{directory}/matching", "N")
        self._file(f"{directory}/memcg_path", "")

    # --- commands -------------------------------------------------------------------------------

    def _lock(self) -> None:
        self._tried += 1
        if self.contended and self._tried % 3 == 0:
            raise failure(errno.EBUSY)

    def _state(self) -> str:
        self._lock()
        return "on\n" if self.running else "off\n"

    def _command(self, text: str) -> None:
        self._lock()
        word = text.strip()
        self.commands.append(word)
        self.pass_time()
        if word == "on":
            self._switch_on()
        elif word == "off":
            if not self.running:
                raise failure(errno.EPERM)
            self.running = False
            self.modules.others = 0
        elif not self.running:
            raise failure(errno.EINVAL)
        elif self.busy:
            self.busy -= 1
            raise failure(errno.EBUSY)
        elif word == "commit":
            # it is done at the end of an aggregation
            self.machine.advance(int(self._in_force[f"{self._intervals}/aggr_us"]) / 1e6)
            self._read()
        elif word == "update_schemes_stats":
            for number, size in self._applied.items():
                for name in ("sz_tried", "sz_applied"):
                    self.values[f"{CONTEXT}/schemes/{number}/stats/{name}"] = str(size)
        else:
            raise failure(errno.EINVAL)

    def _switch_on(self) -> None:
        if self.modules.stat or self.modules.pid > 0 or self.running:
            raise failure(errno.EBUSY)
        self._read()
        self.running = True
        self.modules.others = 1
        self._begin = self._last = self.machine.now
        self._applied = {}

    @property
    def _intervals(self) -> str:
        return f"{CONTEXT}/monitoring_attrs/intervals"

    def _read(self) -> None:
        if self.values[f"{CONTEXT}/operations"] == "paddr":
            regions = f"{CONTEXT}/targets/0/regions"
            if not int(self.values[f"{regions}/nr_regions"]):
                raise failure(errno.EINVAL)
        for path, value in self.values.items():
            if path.endswith("/type") and value == "memcg":
                memcg = self.values[f"{path[:-5]}/memcg_path"]
                if memcg not in self.machine.by_path:
                    raise failure(errno.EINVAL)
        self._in_force = dict(self.values)

    # --- the kdamond ----------------------------------------------------------------------------

    def pass_time(self) -> None:
        """Page out what the schemes find, within their quotas, for the time that has passed."""
        now, begin = self.machine.now, self._last
        self._last = now
        if not self.running or now <= begin:
            return
        of = self._in_force
        aggr = int(of[f"{self._intervals}/aggr_us"]) / 1e6
        for number in range(int(of[f"{CONTEXT}/schemes/nr_schemes"])):
            start = f"{CONTEXT}/schemes/{number}"
            age = int(of[f"{start}/access_pattern/age/min"]) * aggr
            newest = self._begin + age
            if of[f"{start}/action"] != "pageout" or now < newest:
                continue
            if int(of[f"{start}/access_pattern/age/max"]) * aggr < now - self._begin:
                continue  # all that was not paged out is older
            window = int(of[f"{start}/quotas/reset_interval_ms"]) / 1000
            windows = max(1, int((now - max(begin, newest)) / window)) if window else 1
            left = windows * int(of[f"{start}/quotas/bytes"]) or self.machine.total_bytes
            files, groups = self._groups(of, start)
            for group in groups:
                if files:
                    size = min(group.file_bytes, left)
                    group.file_bytes -= size
                else:
                    size = self.machine.page_out_idle(group.path, age, left, alone=True)
                left -= size
                self.paged_out[group.path] = self.paged_out.get(group.path, 0) + size
                self._applied[number] = self._applied.get(number, 0) + size

    def _groups(self, of: dict[str, str], scheme: str) -> tuple[bool, list[FakeCgroup]]:
        """Whether files are what the filters leave, else anonymous memory, and of which cgroups."""
        files = False
        filters = "ops_filters" if self.machine.kernel >= (6, 15) else "filters"
        found = list(self.machine.by_path.values())
        for number in range(int(of[f"{scheme}/{filters}/nr_filters"])):
            each = f"{scheme}/{filters}/{number}"
            matching = of[f"{each}/matching"] == "Y"
            if of[f"{each}/type"] == "anon":
                files = matching
            else:
                memcg = of[f"{each}/memcg_path"]
                found = [group for group in found if (group.path == memcg) is not matching]
        return files, found
