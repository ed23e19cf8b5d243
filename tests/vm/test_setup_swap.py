# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest without swap gets a swap file from hibprep, really hibernates to it, and comes back.

The guest's kernel is started directly and not by a boot loader, so that what a boot loader would
say is said here from outside: the resume device by hand, and on the command line of the next boot.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.lab import Guest, Workload, build
from bench.lab.storage import ROOT_DEVICE, parse_first_page
from hibprep.errors import ExitCode
from tests.vm.conftest import GIB, MIB


def hibprep(guest: Guest, *arguments: str, code: ExitCode = ExitCode.DONE) -> Any:  # noqa: ANN401
    result = guest.run(["hibprep", *arguments, "--json"], timeout=300)
    assert result.returncode == code, (arguments, result)
    return json.loads(result.text)


def names(checked: Any) -> set[str]:  # noqa: ANN401 - what was printed
    return {item["name"] for item in checked["findings"]}


def put_setting(guest: Guest, path: str, value: str) -> None:
    guest.run(["sh", "-c", 'printf %s "$2" > "$1"', "sh", path, value], check=True)


def test_a_swap_file_is_made_hibernated_to_and_taken_back(
    wheel: Any,  # noqa: ANN401 - a path
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Guest(
        build("trixie", print), memory_bytes=1 * GIB, swap_bytes=0, root_bytes=4 * GIB
    ) as guest:
        # systemd.swap=no: it would wait for the disk that the image's fstab names
        words = [f"resume={ROOT_DEVICE}", "systemd.swap=no"]
        monkeypatch.setattr(guest._storage, "kernel_words", lambda: words)
        guest.start()
        guest.install(wheel)
        fstab = guest.read("/etc/fstab")

        bare = hibprep(guest, "check", code=ExitCode.IMPOSSIBLE)
        assert "no-swap" in names(bare)

        planned = hibprep(guest, "setup", "swap", "--dry-run")
        assert guest.read("/etc/fstab") == fstab
        assert len(guest.read("/proc/swaps").splitlines()) == 1

        # no boot loader in this guest: what it would have to say is left to do by hand
        made = hibprep(guest, "setup", "swap", "--yes", code=ExitCode.PARTLY)
        print({key: made[key] for key in ("size_bytes", "offset_pages", "pieces", "by_hand")})
        assert made["size_bytes"] == planned["size_bytes"]
        offset = made["offset_pages"]
        filefrag = guest.run(["filefrag", "-b4096", "-v", "/swapfile"], check=True).text
        assert offset == parse_first_page(filefrag)
        assert f"resume_offset={offset}" in made["by_hand"][0]
        assert "/swapfile" in guest.read("/proc/swaps")
        assert guest.read("/etc/fstab").endswith("/swapfile none swap sw 0 0\n")

        put_setting(guest, "/sys/power/resume_offset", str(offset))
        number = guest.read(f"/sys/class/block/{ROOT_DEVICE.removeprefix('/dev/')}/dev").strip()
        put_setting(guest, "/sys/power/resume", number)
        checked = hibprep(guest, "check")
        print([(item["severity"], item["name"], item["text"]) for item in checked["findings"]])
        assert checked["possible"] is True
        assert {"resume", "fits", "logind", "prepared"} <= names(checked)

        workload = Workload(guest, cold_bytes=450 * MIB, warm_bytes=16 * MIB)
        workload.start()
        words = [f"resume={ROOT_DEVICE}", f"resume_offset={offset}"]
        timing = guest.hibernate(("systemctl", "hibernate"), timeout=300)
        seconds = guest.resume()
        print(f"hibernate {timing.seconds:.1f} s, resume {seconds:.1f} s, {timing.facts}")
        verified = workload.verify()
        assert verified["ok"], verified
        workload.stop()

        undone = hibprep(guest, "setup", "undo", "swap")
        assert undone["left"] == []
        assert guest.read("/etc/fstab") == fstab
        assert len(guest.read("/proc/swaps").splitlines()) == 1
        assert guest.run(["test", "-e", "/swapfile"]).returncode == 1
