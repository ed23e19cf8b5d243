# SPDX-License-Identifier: LGPL-2.1-or-later
"""The workload's script, run on this machine in small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.lab import workload

SCRIPT = Path(workload.__file__)
MiB = 1 << 20


def _until(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    state: dict[str, Any] = {}
    while time.monotonic() < deadline:
        if path.exists():
            state = json.loads(path.read_text())
            if wanted(state):
                return state
        time.sleep(0.02)
    raise AssertionError(f"not in time: {state}")


@contextmanager
def _running(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    state = tmp_path / "state" / "workload.json"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(SCRIPT), "fill", f"--state={state}", *options]
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
        assert state["verified"] == {"ok": False, "cold_wrong_blocks": 1, "warm_wrong_blocks": 0}


@pytest.mark.parametrize("compressible", [0.0, 0.5, 1.0])
def test_pages_compress_as_far_as_asked(compressible: float) -> None:
    block = workload.make_block(compressible)
    assert len(block) == workload.BLOCK
    ratio = len(zlib.compress(block, 1)) / len(block)
    assert ratio == pytest.approx(1 - compressible, abs=0.03)


def test_no_two_pages_are_alike() -> None:
    region = workload.Region(2 * workload.BLOCK, 0, workload.make_block(1.0))
    region.fill()
    data = region._map[:]
    pages = {data[offset : offset + 4096] for offset in range(0, len(data), 4096)}
    assert len(pages) == len(data) // 4096
