# SPDX-License-Identifier: LGPL-2.1-or-later
"""SIGKILL for the daemon and for the hook at any point of a sleep: the machine sleeps all the same,
and nothing stays changed after the next start.

The guest goes through the whole of a hibernation each time, image written and read back, without
being switched off for it (`test_resume`, Documentation/power/basic-pm-debugging.rst).
"""

from __future__ import annotations

import json

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot
from tests.vm.test_sleep import CONFIG, SECONDS, asleep, installed, knobs

TIMES = 50
_DROP_IN = b"[Sleep]\nHibernateMode=test_resume\n"

# Runs in the guest, in system.slice: nobody freezes it but the kernel.
_KILLER = """
import json, os, random, signal, subprocess, sys, time

def run(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()

def sleeps():
    # the unit itself is forgotten when it is over
    lines = run("journalctl", "-b", "-u", "systemd-hibernate", "-o", "cat").splitlines()
    ended = [line for line in lines if line.startswith(("Finished", "Failed to start"))]
    return len(ended), bool(ended) and ended[-1].startswith("Finished")

def pids(*parts):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{name}/cmdline").read().replace("\\0", " ")
        except OSError:
            continue
        if any(part in words for part in parts) and int(name) != os.getpid():
            found.append(int(name))
    return found

def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            journal = run("journalctl", "-n", "60", "-o", "short-monotonic", "--no-pager")
            jobs = run("systemctl", "list-jobs") + run("systemctl", "status", "systemd-hibernate")
            raise SystemExit(f"{what}: not within {seconds} s, {victims}: {jobs}\\n{journal}")
        time.sleep(0.1)

chance = random.Random(int(sys.argv[2]))
knobs = sys.argv[3:]
usual = [open(path).read().strip() for path in knobs]
for number in range(int(sys.argv[1])):
    victims = chance.choice((["hibprep run"], ["system-sleep/hibprep"], ["sleep-hook"],
                             ["hibprep run", "system-sleep/hibprep", "sleep-hook"]))
    if "sleep-hook" in victims[0]:
        run("systemctl", "stop", "hibprep")
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    before, _ = sleeps()
    subprocess.run(["systemctl", "hibernate"], check=True)
    time.sleep(chance.uniform(0, float(os.environ["SPREAD"])))
    killed = pids(*victims)
    for pid in killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    until(lambda: sleeps()[0] > before, 180, "the sleep")
    run("systemctl", "reset-failed", "hibprep")
    run("systemctl", "start", "hibprep")
    until(lambda: run("systemctl", "is-active", "hibprep") == "active", 60, "the daemon")
    now = [open(path).read().strip() for path in knobs]
    left = [name for name in os.listdir("/run/hibprep") if name.startswith("knobs-")]
    print(json.dumps({"number": number, "victims": victims, "killed": len(killed),
                      "slept": sleeps()[1], "back": now == usual, "left": left,
                      "seconds": round(time.clock_gettime(time.CLOCK_BOOTTIME) - begun, 1)}),
          flush=True)
"""


@pytest.mark.timeout(3600)
def test_killed_at_any_point(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=1 * GIB, config=CONFIG)
    installed(machine)
    guest = machine.guest
    guest.run(["mkdir", "-p", "/etc/systemd/sleep.conf.d"], check=True)
    guest.put(_DROP_IN, "/etc/systemd/sleep.conf.d/lab.conf")
    workload = Workload(guest, cold_bytes=350 * MIB, warm_bytes=32 * MIB)
    workload.start()
    guest.run(["systemctl", "start", "hibprep"], timeout=SECONDS, check=True)
    guest.put(_KILLER.encode(), "/tmp/killer.py")  # noqa: S108 - in the guest
    before = knobs(machine)
    done = guest.run(
        ["python3", "/tmp/killer.py", str(TIMES), "7", "/sys/power/image_size",  # noqa: S108
         "/proc/sys/vm/swappiness", "/sys/kernel/mm/lru_gen/enabled"],
        env={"SPREAD": "8"}, timeout=3000,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.text.splitlines()]
    print(done.text, done.error_text)
    assert done.returncode == 0, done.error_text
    assert len(rows) == TIMES
    assert [row for row in rows if not row["slept"]] == []
    assert [row for row in rows if not row["back"] or row["left"]] == []
    assert sum(row["killed"] for row in rows) > TIMES // 4  # or nothing was tried
    assert knobs(machine) == before
    # and a real one, at last
    guest.run(["rm", "/etc/systemd/sleep.conf.d/lab.conf"], check=True)
    # which also closes the record of one whose end was killed, if that was so
    asleep(machine, None)
    assert workload.verify()["ok"]
