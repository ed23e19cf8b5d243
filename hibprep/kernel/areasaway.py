# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swap areas that are switched off for a while, and come back whatever happens.

As `hibprep.kernel.knobs` for settings: an area is on record, with its priority, before it is
switched off (one JSON file per process in the run-time directory), so that the next start can put
back what a killed process left off. An area that is in use is left alone, whoever did that.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable

from hibprep.errors import HibprepError, KernelFileError, KernelFileMalformed, KernelFileMissing
from hibprep.kernel.durable import replace_durably
from hibprep.kernel.knobs import BOOT_ID
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot, translate
from hibprep.kernel.swapcall import swap_on
from hibprep.kernel.swaps import SWAPS, parse_swaps

_VERSION = 1
_NAME = re.compile(r"swapoff-([0-9]{1,10})-([0-9]{1,20})\.json", re.ASCII)

SwapOn = Callable[[KernelRoot, str, int], None]


class AreasAway:
    """The areas that this process has switched off. `processes` is where processes and the boot
    are looked up: those of the running kernel even when `root` is another."""

    def __init__(
        self,
        root: KernelRoot,
        directory: str = "/run/hibprep",
        *,
        processes: KernelRoot | None = None,
        swap_on: SwapOn = swap_on,
    ) -> None:
        self._root = root
        self._processes = processes or KernelRoot()
        self._directory = directory
        self._swap_on = swap_on
        self._boot = (self._processes.try_read(BOOT_ID) or "").strip()
        pid = os.getpid()
        self._file = f"{directory}/swapoff-{pid}-{start_time(self._processes, pid) or 0}.json"
        self._areas: dict[str, int] = {}

    def note(self, path: str, priority: int) -> None:
        """Put an area on record, on the disk before this returns; only then may it go off."""
        self._areas[path] = priority
        try:
            self._save()
        except KernelFileError:
            del self._areas[path]
            raise

    def put_back(self) -> list[str]:
        """Switch on what is off; words for the report. What cannot be stays on record."""
        words, self._areas = self._on(self._areas)
        try:
            self._save()
        except KernelFileError as error:
            words.append(f"the record of swap that is off could not be brought up to date: {error}")
        return words

    def recover(self) -> list[str]:
        """Switch on what processes that were killed have left off; words for the report."""
        try:
            names = self._root.listdir(self._directory)
        except KernelFileMissing:
            return []
        except KernelFileError as error:
            return [f"swap that earlier runs switched off could not be looked for: {error}"]
        words: list[str] = []
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None and not self._alive(int(match[1]), int(match[2])):
                words += self._recover(f"{self._directory}/{name}")
        return words

    def _on(self, areas: dict[str, int]) -> tuple[list[str], dict[str, int]]:
        words: list[str] = []
        left: dict[str, int] = {}
        for path, priority in reversed(areas.items()):
            try:
                if any(each.path == path for each in parse_swaps(self._root.read(SWAPS))):
                    continue
                self._swap_on(self._root, path, priority)
            except FileNotFoundError:
                words.append(f"{path} is gone: nothing to switch on")
            except (OSError, HibprepError) as error:
                words.append(
                    f"{path} could not be switched on again ({error}); "
                    f"swapon --priority {priority} {path} does it"
                )
                left[path] = priority
            else:
                words.append(f"{path} is in use as swap again, with priority {priority}")
        return words, left

    def _save(self) -> None:
        path = self._root.path(self._file)
        try:
            if not self._areas:
                path.unlink(missing_ok=True)
                return
            areas = [{"path": path, "priority": each} for path, each in self._areas.items()]
            document = {"version": _VERSION, "boot": self._boot, "areas": areas}
            replace_durably(path, json.dumps(document, indent=1).encode())
        except OSError as error:
            raise translate(self._file, error) from error

    def _alive(self, pid: int, start: int) -> bool:
        try:
            return start_time(self._processes, pid) == start
        except KernelFileError:
            # there is something of that number: better not to meddle
            return True

    def _recover(self, name: str) -> list[str]:
        file = self._root.path(name)
        try:
            boot, areas = parse_record(name, file.read_bytes())
            words: list[str] = []
            left: dict[str, int] = {}
            if boot == self._boot:  # else it was another boot's, which ended with it
                words, left = self._on(areas)
            if not left:
                file.unlink(missing_ok=True)
        except OSError as error:
            return [f"{translate(name, error)}: swap that it tells of stays as it is"]
        except KernelFileMalformed as error:
            file.replace(file.with_suffix(".corrupt"))
            return [f"{error}; renamed to {file.with_suffix('.corrupt').name}, nothing put back"]
        return words


def parse_record(path: str, data: bytes) -> tuple[str, dict[str, int]]:
    """The boot and the areas of a record, of which nothing is believed: root swaps to them."""
    try:
        document = json.loads(data)
        if document["version"] != _VERSION:
            raise KernelFileMalformed(path, f"is of version {document['version']!r}")
        boot = document["boot"]
        areas = {each["path"]: each["priority"] for each in document["areas"]}
        sound = isinstance(boot, str) and all(
            isinstance(area, str)
            and re.fullmatch(r"/dev/zram[0-9]{1,4}", area, re.ASCII)
            and type(priority) is int
            and 0 <= priority <= 0x7FFF  # noqa: PLR2004 - SWAP_FLAG_PRIO_MASK
            for area, priority in areas.items()
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise KernelFileMalformed(path, f"is no record of swap that is off ({error})") from error
    if not sound:
        raise KernelFileMalformed(path, "is no record of swap that is off")
    return boot, areas
