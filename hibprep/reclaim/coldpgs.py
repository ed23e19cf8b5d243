# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `coldpgs`: reclaim by age in scan periods of kidled, on kernels that have both
(OpenAnolis and Alibaba Cloud; see `hibprep.kernel.coldpgs`).

Chunks go to the cgroup that has most of what is cold enough, with an amount. The file for all
cgroups knows no amount, so it is written only when all that is cold fits into the chunk. Ended
cgroups below one that is named are taken from as well, without limit, which is allowed for. coldpgs
pays no regard to memory.min, so this module does.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

from hibprep.errors import KernelFileError, KernelFileMissing
from hibprep.kernel import coldpgs, kidled
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.coldpgs import Flag
from hibprep.kernel.root import KernelRoot
from hibprep.model import BackendName, Capability, Kind, ScopeKind, Stage, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, WriteResult, failed
from hibprep.rules import covers, is_spared

SINCE = "OpenAnolis"
_LEAST_BYTES = 64 << 10  # less is not worth a command
_WITH_ENDED = "what ended cgroups below it have left would go with it, all at once"


class ColdPgs:
    """One cgroup a chunk. `set_knob(path, value, reason)` journals a setting that is put back when
    the run ends; `tree` is that of cgroup v2, None where there is none."""

    name = BackendName.COLDPGS

    def __init__(
        self,
        root: KernelRoot,
        tree: CgroupTree | None,
        worker: Worker,
        set_knob: Callable[[str, str, str], None],
        page_size: int,
    ) -> None:
        self._root = root
        self._limits = tree
        self._tree = coldpgs.find_tree(root, tree)
        self._worker = worker
        self._set_knob = set_knob
        self._page = page_size
        self._step: Step | None = None
        self._cold: dict[str, int] = {}  # what each cgroup may have, by the last look
        self._ended: dict[str, int] = {}  # what ended cgroups below each of them may have
        self._kept: list[str] = []  # why some cgroups are left alone

    def probe(self) -> Capability:
        """Whether the module is there, and whether kidled tells it anything."""

        def no(reason: str) -> Capability:
            return Capability(self.name, available=False, reason=reason, since=SINCE)

        if not self._root.exists(coldpgs.VERSION_FILE):
            return no(
                f"no {coldpgs.DIRECTORY}: kernels of OpenAnolis and Alibaba Cloud have it "
                "(modprobe coldpgs there), mainline ones do not"
            )
        if not self._root.writable(coldpgs.THRESHOLD_FILE):
            return no(f"{coldpgs.THRESHOLD_FILE} cannot be written: be root")
        if self._tree is None:
            return no("cgroups with the memory controller are not mounted")
        try:
            settings = coldpgs.read_settings(self._root)
            period = kidled.read_period_seconds(self._root)
        except KernelFileError as error:
            return no(str(error))
        if not period:
            return no("kidled is off: hibprep coldpgs set --period 15s switches it on")
        return Capability(
            self.name,
            available=True,
            reason=f"coldpgs {settings.version}, ages in scan periods of {period} s",
            since=SINCE,
            features=frozenset({"mlocked"} if Flag.MLOCKED in settings.flags else ()),
        )

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early: kidled goes on by itself."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Take one chunk of what is old enough."""
        if step.scope.kind is ScopeKind.PROCESS:
            return Outcome(Status.FAILED, "coldpgs knows cgroups, not processes")
        if stop.requested():
            return Outcome(Status.STOPPED)
        try:
            periods = self._periods(step)
            if self._step != step:
                self._begin(step, periods)
            if self._fits(step, budget, periods):
                return self._take_all(periods, stop)
            while self._cold:
                path = max(self._cold, key=lambda each: (-self._ended[each], self._cold[each]))
                room = budget.amount_bytes - self._ended[path]
                amount = min(room, self._cold[path], self._losable(path, step.kind))
                amount = amount // self._page * self._page
                if amount > 0:
                    return self._take(path, amount, step, periods, stop)
                if room <= 0:
                    self._kept.append(f"{path} is left alone: {_WITH_ENDED}")
                del self._cold[path]
        except (ValueError, KernelFileError) as error:
            return Outcome(Status.FAILED, str(error))
        words = f"nothing more is as old as {periods} scan periods of kidled"
        return Outcome(Status.EXHAUSTED, "; ".join([words, *self._kept]))

    # --- what there is --------------------------------------------------------------------------

    def _periods(self, step: Step) -> int:
        """The age in scan periods; ValueError in words when it cannot be had."""
        period = kidled.read_period_seconds(self._root)
        if not kidled.scans(self._root, step.kind):
            raise ValueError(
                f"kidled does not look at memory of kind {step.kind}: hibprep coldpgs set "
                "--scan both makes it"
            )
        return kidled.periods_for(step.min_age_seconds, period or 0)

    def _begin(self, step: Step, periods: int) -> None:
        """Look once at every cgroup of the scope, and set what coldpgs is to take."""
        self._step, self._cold, self._ended, self._kept = step, {}, {}, []
        mode = coldpgs.MODES[step.kind]
        words = f"so that coldpgs takes {step.kind} memory only"
        self._set_knob(coldpgs.MODE_FILE, f"0x{mode:x}", words)
        if step.stage is Stage.COLD_ANON and coldpgs.read_settings(self._root).threshold_nonrot:
            words = "zswap would keep in memory, compressed, what is meant for the disk"
            self._set_knob(coldpgs.NONROT_FILE, "0", words)
        assert self._tree is not None  # noqa: S101 - the probe says so before there is a step
        waiting, here = [step.scope.path], {}
        while waiting:
            path = waiting.pop()
            waiting += self._tree.children(path)
            cold = self._cold_bytes(path, step.kind, periods)
            here[path] = cold
            if is_spared(path, step.spared) or cold < _LEAST_BYTES:
                continue
            if self._allowed(path, step):
                self._cold[path] = cold
        for path in self._cold:
            with_below = self._cold_bytes(path, step.kind, periods, local=False)
            known = sum(cold for each, cold in here.items() if covers(path, each))
            self._ended[path] = max(0, with_below - known)
        for path in [each for each, ended in self._ended.items() if ended]:
            if any(covers(path, each) for each in step.spared):  # theirs may be among it
                self._kept.append(f"{path} is left alone: {_WITH_ENDED}")
                del self._cold[path]

    def _cold_bytes(self, path: str, kind: Kind, periods: int, *, local: bool = True) -> int:
        """What may be old enough of a cgroup; 0 when it is gone or not counted."""
        try:
            stats = kidled.read_idle_stats(self._root, self._directory(path), local=local)
        except KernelFileMissing:
            return 0
        flags = coldpgs.read_settings(self._root).flags
        return stats.cold(kind, periods, mlocked=Flag.MLOCKED in flags).most_bytes

    def _directory(self, path: str) -> str:
        return self._tree.directory(path) if self._tree else ""

    def _losable(self, path: str, kind: Kind) -> int:
        """What memory.min and memory.swap.max let a cgroup lose."""
        if self._limits is None:
            return 1 << 62
        return self._limits.losable_bytes(path, to_swap=kind is not Kind.FILE)

    def _allowed(self, path: str, step: Step) -> bool:
        """Have the cgroup's own flags let this kind through, where nobody has said anything in
        them; where somebody has, that stands."""
        directory = self._directory(path)
        try:
            flags = coldpgs.read_cgroup_flags(self._root, directory)
            mode = coldpgs.MODES[step.kind]
            if flags.mode & mode == mode:
                return True
            if flags.mode:
                self._kept.append(
                    f"{path} is left alone: its {coldpgs.CGROUP_FLAGS} allows no {step.kind} memory"
                )
                return False
            control = flags.control | coldpgs.read_settings(self._root).flags
            self._set_knob(
                f"{directory}/{coldpgs.CGROUP_FLAGS}",
                replace(flags, mode=mode, control=control).text(),
                f"so that coldpgs may take {step.kind} memory of it",
            )
        except KernelFileMissing:
            return False
        return True

    # --- taking it ------------------------------------------------------------------------------

    def _fits(self, step: Step, budget: Budget, periods: int) -> bool:
        """Whether all that is cold may go at once."""
        if step.scope.kind is not ScopeKind.MACHINE or step.spared or not self._cold:
            return False
        if sum(self._cold.values()) > budget.amount_bytes:
            return False
        if self._cold_bytes("/", step.kind, periods, local=False) > budget.amount_bytes:
            return False
        return all(self._losable(path, step.kind) >= cold for path, cold in self._cold.items())

    def _take_all(self, periods: int, stop: Stop) -> Outcome:
        self._cold.clear()
        result = self._worker.write(coldpgs.THRESHOLD_FILE, f"{periods}\n", stop)
        return self._answer(coldpgs.THRESHOLD_FILE, result)

    def _take(self, path: str, amount: int, step: Step, periods: int, stop: Stop) -> Outcome:
        """The threshold first, which does nothing while the size is 0; then the size."""
        directory = self._directory(path)
        size_file = f"{directory}/{coldpgs.CGROUP_SIZE}"
        try:
            before = coldpgs.read_statistics(self._root, directory, self._page).taken_bytes
            self._set_knob(size_file, "0", "an amount that was left there would be taken at once")
            self._set_knob(
                f"{directory}/{coldpgs.CGROUP_THRESHOLD}",
                str(periods),
                "the age that coldpgs takes; the kernel clears it after every command",
            )
            result = self._worker.write(size_file, f"{amount}\n", stop)
            if result.errno not in (errno.ENOENT, errno.ENODEV):
                ended = self._answer(size_file, result)
                if ended.status is not Status.OK:
                    return ended
            after = coldpgs.read_statistics(self._root, directory, self._page).taken_bytes
        except KernelFileMissing:
            del self._cold[path]
            return Outcome(Status.OK, knows_its_end=True)
        gone = self._ended[path]
        for each in self._ended:
            if covers(path, each):
                self._ended[each] = 0
            elif covers(each, path):
                self._ended[each] = max(0, self._ended[each] - gone)
        left = self._cold_bytes(path, step.kind, periods)
        # It waits for what it writes, so that what does not give way now will not the next time.
        if after > before and left >= _LEAST_BYTES:
            self._cold[path] = left
        else:
            del self._cold[path]
        return Outcome(Status.OK, knows_its_end=True)

    def _answer(self, path: str, result: WriteResult) -> Outcome:
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno == errno.EINVAL and Flag.MLOCKED in coldpgs.read_settings(self._root).flags:
            return Outcome(
                Status.FAILED,
                "this coldpgs cannot reclaim mlocked pages: hibprep coldpgs set --no-mlocked",
            )
        if result.errno:
            return failed(path, result.errno)
        return Outcome(Status.OK, knows_its_end=True)
