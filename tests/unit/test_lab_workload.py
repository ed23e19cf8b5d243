# SPDX-License-Identifier: LGPL-2.1-or-later
"""The workload's script, run on this machine in small."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.lab import workload
from tests.waiting import until

SCRIPT = Path(workload.__file__)
MiB = 1 << 20


def _until(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        if not path.exists():
            return None
        state: dict[str, Any] = json.loads(path.read_text())
        return state if wanted(state) else None

    return until(look, f"{path} says what is wanted")


@contextmanager
def _running(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    state = tmp_path / "state" / "workload.json"
    places = (f"--tmpfs-directory={tmp_path}", f"--file-directory={tmp_path / 'files'}")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), "fill", f"--state={state}", *places, *options]
    )
    try:
        yield process, state
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_fills_touches_resets_and_verifies(tmp_path: Path) -> None:
    cold, warm = 9 * MiB + 4096, 5 * MiB
    with _running(tmp_path, f"--cold-bytes={cold}", f"--warm-bytes={warm}", "--period=0.05") as (
        process,
        path,
    ):
        state = _until(path, lambda now: now["ready"] and now["passes"] >= 2)
        assert state["pid"] == process.pid
        assert state["slowest_pass_seconds"] > 0
        for name, size in (("cold", cold), ("warm", warm)):
            assert state[name]["bytes"] == size
            found = workload.pagemap(process.pid, state[name]["address"], size)
            assert found == {"pages": size // 4096, "present": size // 4096, "swapped": 0}
        os.kill(process.pid, signal.SIGUSR2)
        _until(path, lambda now: now["resets"] == 1)
        os.kill(process.pid, signal.SIGHUP)
        _until(path, lambda now: now["asked_passes"] == 1)
        os.kill(process.pid, signal.SIGUSR1)
        state = _until(path, lambda now: now["verifications"] == 1)
        assert state["verified"]["ok"] is True


def test_one_wrong_byte_is_noticed(tmp_path: Path) -> None:
    with _running(tmp_path, f"--cold-bytes={6 * MiB}") as (process, path):
        address = _until(path, lambda now: now["ready"])["cold"]["address"]
        with Path(f"/proc/{process.pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(address + 5 * MiB + 1234)
            memory.write(b"\x00\xff\x00")
        os.kill(process.pid, signal.SIGUSR1)
        state = _until(path, lambda now: now["verifications"] == 1)
        assert state["verified"] == {"ok": False, **NONE_WRONG, "cold_wrong_blocks": 1}


SIZES = {
    "cold": 4096,
    "warm": 5 * MiB,
    "tmpfs": 6 * MiB + 4096,
    "read": 9 * MiB,
    "mapped": 4 * MiB + 8192,
}
ALL = [f"--{name}-bytes={size}" for name, size in SIZES.items()]
NONE_WRONG = dict.fromkeys((f"{name}_wrong_blocks" for name in SIZES), 0)


def _verified(process: subprocess.Popen[bytes], path: Path) -> Any:  # noqa: ANN401
    before = json.loads(path.read_text())["verifications"]
    os.kill(process.pid, signal.SIGUSR1)
    return _until(path, lambda now: now["verifications"] > before)["verified"]


def test_files_and_shared_memory_are_filled_verified_and_removed(tmp_path: Path) -> None:
    with _running(tmp_path, *ALL) as (process, path):
        state = _until(path, lambda now: now["ready"])
        assert {name: state[name]["bytes"] for name in SIZES} == SIZES
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        for name, rights in (("tmpfs", "rw-s"), ("mapped", "r--s")):
            address, size = state[name]["address"], SIZES[name]
            line = next(line for line in maps if line.endswith(state[name]["path"]))
            assert line.startswith(f"{address:x}-{address + size:x} {rights} ")
            found = workload.pagemap(process.pid, address, size)
            assert found == {"pages": size // 4096, "present": size // 4096, "swapped": 0}
        assert state["read"]["address"] == 0
        files = [Path(state[name]["path"]) for name in ("tmpfs", "read", "mapped")]
        assert [file.stat().st_size for file in files] == [
            SIZES[name] for name in ("tmpfs", "read", "mapped")
        ]
        assert _verified(process, path) == {"ok": True, **NONE_WRONG}
    assert not any(file.exists() for file in files)


@pytest.mark.parametrize("name", ["tmpfs", "read", "mapped"])
def test_a_wrong_byte_in_a_file_is_noticed(tmp_path: Path, name: str) -> None:
    with _running(tmp_path, *ALL) as (process, path):
        file = Path(_until(path, lambda now: now["ready"])[name]["path"])
        with file.open("r+b") as stream:
            stream.seek(SIZES[name] - 4000)  # in its last block, of which there is only a part
            stream.write(b"\x00\xff\x00")
        expected = {"ok": False, **NONE_WRONG, f"{name}_wrong_blocks": 1}
        assert _verified(process, path) == expected


def test_a_page_of_another_region_is_noticed(tmp_path: Path) -> None:
    with _running(tmp_path, *ALL) as (process, path):
        state = _until(path, lambda now: now["ready"])
        with Path(state["tmpfs"]["path"]).open("rb") as stream:
            page = stream.read(4096)
        with Path(state["read"]["path"]).open("r+b") as stream:
            stream.write(page)
        assert _verified(process, path)["read_wrong_blocks"] == 1


def test_a_tmpfs_without_room_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    room = os.statvfs(tmp_path)
    more = room.f_bavail * room.f_frsize + (1 << 30)
    ended = subprocess.run(
        [
            *(sys.executable, "-I", "-S", str(SCRIPT), "fill", f"--tmpfs-bytes={more}"),
            *(f"--tmpfs-directory={tmp_path}", f"--state={tmp_path / 'workload.json'}"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert f"{tmp_path} has room for" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compressible", [0.0, 0.5, 1.0])
def test_pages_compress_as_far_as_asked(compressible: float) -> None:
    block = workload.make_block(compressible)
    assert len(block) == workload.BLOCK
    ratio = len(zlib.compress(block, 1)) / len(block)
    assert ratio == pytest.approx(1 - compressible, abs=0.03)


def test_no_two_pages_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    region = workload.Memory(5 * workload.BLOCK, 0, workload.make_block(1.0))
    region.fill()
    data = region._map[:]
    pages = {data[offset : offset + 4096] for offset in range(0, len(data), 4096)}
    assert len(pages) == len(data) // 4096
    assert region.wrong_blocks() == 0


def test_what_was_in_memory_after_a_sleep_is_told_of_before_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(
        state=str(tmp_path / "state.json"), period=1.0, compressible=0.5,
        tmpfs_directory=str(tmp_path), file_directory=str(tmp_path),
        **{f"{name}_bytes": 0 for name in workload.REGIONS} | {"warm_bytes": 8 * MiB},
    )  # fmt: skip
    asleep = [0.0]
    monkeypatch.setattr(workload, "asleep_seconds", lambda: asleep[0])
    one = workload.Workload(options)
    one._pass()
    assert one._state["woke"] is None
    assert one._warm is not None
    ctypes.CDLL(None).madvise(
        ctypes.c_void_p(one._warm.address), ctypes.c_size_t(6 * MiB), 4
    )  # MADV_DONTNEED
    asleep[0] = 30.0
    one._pass()
    found: Any = one._state["woke"]
    assert found["pages"] == 8 * MiB // 4096
    assert found["present"] <= 2 * MiB // 4096
    one._pass()
    assert one._state["woke"] is found  # of the sleep, and not of every pass


def test_a_sleep_in_the_middle_of_a_pass_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(
        state=str(tmp_path / "state.json"), period=1.0, compressible=0.5,
        tmpfs_directory=str(tmp_path), file_directory=str(tmp_path),
        **{f"{name}_bytes": 0 for name in workload.REGIONS} | {"warm_bytes": MiB},
    )  # fmt: skip
    moments = iter([0.0, 0.0, 30.0, 30.0, 30.0])
    monkeypatch.setattr(workload, "asleep_seconds", lambda: next(moments))
    one = workload.Workload(options)
    one._pass()
    assert one._state["woke"] is None
    one._pass()
    assert one._state["woke"] is None
