# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in zram leaves memory before a hibernation: written to the device behind it, or by way of
memory to the swap on a disk. Only where that was asked for.

What zram holds is memory of the kernel: it is in the image and cannot be shrunk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from hibprep.clock import Clock
from hibprep.errors import HibprepError, KernelFileError
from hibprep.kernel.areasaway import AreasAway
from hibprep.kernel.lock import RunLock
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swaps import SWAPS, parse_swaps
from hibprep.kernel.zram import read_zram, units, written_bytes, zram_file
from hibprep.model import Limits, Snapshot, SwapArea, Zram
from hibprep.page import size
from hibprep.reclaim.base import Stop, WriteResult
from hibprep.zramguard import may_go_on, may_leave

_FIRST_CHUNK_BYTES = 4 << 20
# Every write looks at all slots of the device before its first page, so there must not be too many.
_MOST_CHUNKS = 64
_LARGEST_CHUNK_BYTES = 256 << 20
_WORTH_BYTES = 1 << 20  # less than this in a device is not worth a word

SetKnob = Callable[[str, str, str], None]


class Worker(Protocol):
    """The part of `hibprep.reclaim.worker.ProcessWorker` that is worked with here."""

    def write(self, path: str, text: str, stop: Stop) -> WriteResult:
        """One write to a kernel file."""

    def swap_off(self, path: str, stop: Stop, watch: Callable[[], bool]) -> WriteResult:
        """Empty a swap area and give it up."""


# --- to the device behind it ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WriteBack:
    """Writing back what zram devices hold, a chunk at a time."""

    root: KernelRoot
    worker: Worker
    set_knob: SetKnob
    clock: Clock
    chunk_seconds: float

    def run(self, stop: Stop) -> list[str]:
        """Write back all that is in them, or until `stop` is raised; words for the report."""
        words = []
        for device in read_zram(self.root):
            if device.used_bytes < _WORTH_BYTES or stop.requested():
                continue
            try:
                words.append(f"{device.name}: {self._one(device, stop)}")
            except HibprepError as error:
                words.append(f"{device.name} is not written back: {error}")
        return words

    def _one(self, device: Zram, stop: Stop) -> str:
        if not device.backing:
            return "there is no device behind it to write to (backing_dev, set before its size is)"
        if device.limited:
            # What is left of an account cannot be put back after a kill: it is not ours to spend.
            return "somebody keeps account of what is written back (writeback_limit); left alone"
        self.root.write(zram_file(device.name, "idle"), "all")
        # The limit is what makes chunks of it: kernels write page after page and look at no signal.
        # With the switch off, as it was and will be again, the figure means nothing.
        self.set_knob(
            zram_file(device.name, "writeback_limit_enable"),
            "1",
            "zram is written back in chunks that can be stopped between",
        )
        why = self._chunks(device, stop)
        now = next((each for each in read_zram(self.root) if each.name == device.name), device)
        written = max(0, now.written_bytes - device.written_bytes)
        gained = max(0, device.used_bytes - now.used_bytes)
        words = f"{size(written)} written to {device.backing}, {size(gained)} of memory gained"
        return f"{words}; {why}" if why else words

    def _chunks(self, device: Zram, stop: Stop) -> str:
        """Until nothing is left to write; else why it ended."""
        name = device.name
        smallest = max(_FIRST_CHUNK_BYTES, device.original_bytes // _MOST_CHUNKS)
        chunk = smallest
        limit, before = zram_file(name, "writeback_limit"), written_bytes(self.root, name)
        while not stop.requested():
            self.root.write(limit, str(units(chunk)))
            result = self.worker.write(zram_file(name, "writeback"), "idle", stop)
            if result.stopped:
                break
            if not result.errno:
                return ""
            spent = self.root.read(limit).strip() == "0"
            if result.errno != errno.EIO or not spent:
                return f"ended: {os.strerror(result.errno)}"
            now = written_bytes(self.root, name)
            if now <= before:
                return "ended: nothing is written any more"
            before = now
            if result.seconds > 0:
                factor = min(2.0, max(0.5, self.chunk_seconds / result.seconds))
                chunk = max(smallest, min(_LARGEST_CHUNK_BYTES, int(chunk * factor)))
        return stop.reason


# --- by way of memory -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WayOut:
    """Switching off swap on zram, and on again. `look` reads the machine as it is now."""

    root: KernelRoot
    worker: Worker
    record: AreasAway
    look: Callable[[], Snapshot]

    def leave(self, limits: Limits, stop: Stop) -> list[str]:
        """Switch off what may be (`hibprep.zramguard`), one after the other; words for the
        report."""
        return [
            f"swap on {area.path}: {self._leave(area, limits, stop)}"
            for area in parse_swaps(self.root.read(SWAPS))
            if area.is_zram and not stop.requested()
        ]

    def _leave(self, area: SwapArea, limits: Limits, stop: Stop) -> str:
        devices = {f"/dev/{each.name}": each for each in read_zram(self.root)}
        verdict = may_leave(self.look(), area, devices.get(area.path), limits)
        if not verdict.ok:
            return f"left on: {verdict.reason}"
        try:
            self.record.note(area.path, area.priority)
            result = self.worker.swap_off(
                area.path, stop, lambda: may_go_on(self.look(), area.path)
            )
        except HibprepError as error:
            # put_back() finds it in use, or switches it on
            return f"left on: {error}"
        if result.stopped:
            return f"left on: {stop.reason or 'what is left in it would not fit any more'}"
        if result.errno:
            return f"left on: {os.strerror(result.errno)}"
        return f"off until after the resume; {size(area.used_bytes)} are read back from it"

    @contextmanager
    def away(self, limits: Limits, stop: Stop, tell: Callable[[str], None]) -> Iterator[None]:
        """Within, swap on zram is off where it may be; `tell` gets the words."""
        try:
            try:
                with RunLock(self.root):
                    for words in self.leave(limits, stop):
                        tell(words)
            except KernelFileError as error:
                tell(f"zram is left as it is: {error}")
            yield
        finally:
            for words in self.record.put_back():
                tell(words)
