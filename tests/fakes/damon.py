# SPDX-License-Identifier: LGPL-2.1-or-later
"""DAMON's modules on a fake machine: parameters that react to writes as mm/damon/reclaim.c does.

Time is the machine's: what a kdamond does once an aggregation is done when its files are next
looked at. Inputs that are written are not in force before they were read again.
"""

from __future__ import annotations

import errno
import re
from functools import partial

from tests.fakes.machine import FakeMachine
from tests.fakes.state import failure

RECLAIM = "/sys/module/damon_reclaim/parameters"
STAT = "/sys/module/damon_stat/parameters"
KDAMOND_PID = 433
TICKS = 100

_DEFAULTS = {
    "min_age": 120_000_000,
    "quota_ms": 10,
    "quota_sz": 128 << 20,
    "quota_reset_interval_ms": 1000,
    "wmarks_interval": 5_000_000,
    "wmarks_high": 500,
    "wmarks_mid": 400,
    "wmarks_low": 200,
    "sample_interval": 5000,
    "aggr_interval": 100_000,
    "min_nr_regions": 10,
    "max_nr_regions": 1000,
    "monitor_region_start": 0,
    "monitor_region_end": 0,
}
_SINCE = {
    "quota_mem_pressure_us": ((6, 9), 0),
    "quota_autotune_feedback": ((6, 9), 0),
    "addr_unit": ((6, 18), 1),
}
_SWITCHES = {"skip_anon": (6, 3), "autotune_monitoring_intervals": (7, 3)}
_STATISTICS = (
    "nr_reclaim_tried_regions",
    "bytes_reclaim_tried_regions",
    "nr_reclaimed_regions",
    "bytes_reclaimed_regions",
    "nr_quota_exceeds",
)
_LOSES_SCHEME = ((6, 11), (6, 17))


class FakeDamonReclaim:
    """DAMON_RECLAIM (and DAMON_STAT from 6.17 on) of a machine."""

    def __init__(self, machine: FakeMachine, *, stat: bool = False) -> None:
        self.machine = machine
        self.stat = stat
        self.numbers = dict(_DEFAULTS)
        self.numbers |= {
            name: default for name, (since, default) in _SINCE.items() if machine.kernel >= since
        }
        self.switches = {
            name: False for name, since in _SWITCHES.items() if machine.kernel >= since
        }
        self.statistics = dict.fromkeys(_STATISTICS, 0)
        self.enabled = False
        self.pid = -1
        self.in_force: dict[str, int | bool] = {}
        self.others = 0  # kdamonds of DAMON's sysfs tree that run
        self._commit_due: float | None = None
        self._started = 0.0
        self._active = False
        self._last = 0.0
        self._list_files()

    def _list_files(self) -> None:
        add = self.machine.add_file
        for name in self.numbers:
            add(f"{RECLAIM}/{name}", partial(self._number, name), partial(self._write_number, name))
        for name in self.switches:
            add(
                f"{RECLAIM}/{name}",
                partial(self._switch, name),
                partial(self._write_switch, name),
            )
        for name in _STATISTICS:
            add(f"{RECLAIM}/{name}", partial(self._statistic, name))
        add(f"{RECLAIM}/enabled", lambda: _letter(on=self.enabled), self._write_enabled)
        add(f"{RECLAIM}/commit_inputs", self._committing, self._write_commit)
        add(f"{RECLAIM}/kdamond_pid", lambda: f"{self.pid}\n")
        if self.machine.kernel >= (6, 17):
            add(f"{STAT}/enabled", lambda: _letter(on=self.stat), self._write_stat)
        end = self.machine.total_bytes
        add(
            "/proc/iomem",
            lambda: f"00001000-0009fbff : System RAM\n00100000-{end - 1:08x} : System RAM\n",
        )

    # --- files ----------------------------------------------------------------------------------

    def _number(self, name: str) -> str:
        return f"{self.numbers[name]}\n"

    def _write_number(self, name: str, text: str) -> None:
        if not re.fullmatch(r"[0-9]{1,20}|0x[0-9a-f]{1,16}", text.strip()):
            raise failure(errno.EINVAL)
        value = int(text, 0)
        if value >= 1 << 64:
            raise failure(errno.ERANGE)
        if name == "addr_unit" and not value:
            raise failure(errno.EINVAL)
        self.numbers[name] = value

    def _switch(self, name: str) -> str:
        return _letter(on=self.switches[name])

    def _write_switch(self, name: str, text: str) -> None:
        self.switches[name] = _truth(text)

    def _statistic(self, name: str) -> str:
        self.pass_time()
        return f"{self.statistics[name]}\n"

    def _committing(self) -> str:
        self.pass_time()
        return _letter(on=self._commit_due is not None)

    def _write_commit(self, text: str) -> None:
        if not _truth(text):
            self._commit_due = None
            return
        # without a kdamond there is nobody who would read them
        active = self._active
        interval = self._forced("aggr_interval" if active else "wmarks_interval")
        self._commit_due = self.machine.now + interval / 1e6 if self.pid > 0 else float("inf")

    def _write_stat(self, text: str) -> None:
        wanted = _truth(text)
        if wanted and not self.stat and (self.pid > 0 or self.others):
            raise failure(errno.EBUSY)
        self.stat = wanted

    def _write_enabled(self, text: str) -> None:
        wanted = _truth(text)
        if wanted == self.enabled:
            return
        if wanted:
            self._check()
            if self.stat or self.others:
                raise failure(errno.EBUSY)
            self.statistics = dict.fromkeys(_STATISTICS, 0)
            self.pid, self._started = KDAMOND_PID, self.machine.now
            self.machine.add_file(f"/proc/{KDAMOND_PID}/stat", self._process)
            self._last = self.machine.now
            self._read_inputs()
        else:
            self._end()
        self.enabled = wanted

    def _process(self) -> str:
        if self.pid < 0:
            raise failure(errno.ENOENT)
        return f"{self.pid} (kdamond.0) I 2" + " 0" * 17 + f" {int(self._started * TICKS)} 0 0\n"

    # --- the kdamond ----------------------------------------------------------------------------

    def pass_time(self) -> None:
        """What the kdamond has done since it was last looked at."""
        now, begin = self.machine.now, self._last
        self._last = now
        if self.pid < 0:
            return
        if self._commit_due is not None and now >= self._commit_due:
            self._commit_due = None
            try:
                self._check()
            except OSError:
                self._end()
                self.enabled = False
                return
            self._read_inputs()
        self._activate()
        if self._active and now > begin:
            self._reclaim(begin, now)

    def _activate(self) -> None:
        free = self.machine.free_bytes * 1000 // self.machine.total_bytes
        high, middle, low = (self._forced(f"wmarks_{name}") for name in ("high", "mid", "low"))
        if free > high or free < low:
            self._active = False
        elif free < middle:
            self._active = True

    def _reclaim(self, begin: float, now: float) -> None:
        first, last = _LOSES_SCHEME
        age = self._forced("min_age") / 1e6
        if first <= self.machine.kernel < last or now - self._started < age:
            return
        # the quota by bytes alone: how long the other one lasts is not the machine's to know
        seconds = max(
            1, int((now - begin) * 1000) // max(1, self._forced("quota_reset_interval_ms"))
        )
        quota = self._forced("quota_sz") * seconds or self.machine.total_bytes
        taken = self.machine.page_out_idle("/", age, quota)
        for kind in ("reclaim_tried", "reclaimed"):
            self.statistics[f"nr_{kind}_regions"] += bool(taken)
            self.statistics[f"bytes_{kind}_regions"] += taken

    def _check(self) -> None:
        """What damon_set_attrs() and damon_set_regions() answer EINVAL to; the watermarks and the
        quotas they take as they are."""
        of = self.numbers
        if of["min_nr_regions"] < 3 or of["min_nr_regions"] > of["max_nr_regions"]:
            raise failure(errno.EINVAL)
        if of["sample_interval"] > of["aggr_interval"] or not of["aggr_interval"]:
            raise failure(errno.EINVAL)
        if of["monitor_region_start"] > of["monitor_region_end"]:
            raise failure(errno.EINVAL)

    def _read_inputs(self) -> None:
        of = self.numbers
        if not of["monitor_region_start"] and not of["monitor_region_end"]:
            of["monitor_region_start"] = 0x100000
            of["monitor_region_end"] = self.machine.total_bytes - 1
        self.in_force = {**of, **self.switches}

    def _forced(self, name: str) -> int:
        return int(self.in_force[name])

    def _end(self) -> None:
        self.pid, self._active, self._commit_due = -1, False, None


def _letter(*, on: bool) -> str:
    return "Y\n" if on else "N\n"


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word[:1] in ("y", "1", "t") or word == "on":
        return True
    if word[:1] in ("n", "0", "f") or word == "off":
        return False
    raise failure(errno.EINVAL)
