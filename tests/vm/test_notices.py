# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a cloud's notice to a machine that is off in time, and back: the real daemon with the unit
that it brings, real systemd, the real kernel. What tells of the end is a metadata service in the
guest, at the address that it has there (`tests/vm/metadata.py`); whose cloud it is, the guest's DMI
says, as it does there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from bench import desktop
from bench.lab import GuestTimeout, HibernateTiming, Workload
from bench.returning import TOO_LATE
from tests.vm import metadata
from tests.vm.conftest import GIB, MIB, Boot, Booted
from tests.vm.test_sleep import installed, knobs, over
from tests.waiting import until

ROUNDS = 5
LOOKS = 3  # so often the daemon is told of the same thing again before it counts as left alone
SECONDS = 300  # for what has no deadline of its own: an emulated guest is slow
MORE_SECONDS = 60  # after a deadline: what is not off then will not be
HALF = 0.5

PYTHON = ("/usr/bin/python3", "-I", "-S")
PROGRAM = "/opt/hibprep-lab/metadata.py"
SERVICE_UNIT = "metadata.service"

RULES = """
[daemon]
policy = "on-request"
settle_seconds = 1

[[on]]
notice = ["rebalance"]
do = "prepare"

[[on]]
notice = ["stop", "terminate"]
do = "hibernate"
"""

# The command never ends by itself: the withdrawal falls into it.
RULES_WITH_A_COMMAND = """
[daemon]
policy = "on-request"
settle_seconds = 1

[[on]]
notice = ["terminate"]
do = "run"
command = ["/usr/bin/tail", "-f", "/dev/null"]
timeout_seconds = 60

[[on]]
notice = ["terminate"]
do = "hibernate"
"""


@dataclass(frozen=True)
class Cloud:
    """One provider: what it is called here, what it says, and how long before. `early`: what it
    says before that, without a time."""

    service: str
    early: str
    what: str
    seconds: int
    dmi: tuple[str, ...]
    place: str  # the path that is looked at for it

    def qemu_arguments(self) -> tuple[str, ...]:
        return tuple(word for each in self.dmi for word in ("-smbios", each))


AWS = Cloud(
    "aws",
    "rebalance",
    "terminate",
    120,
    ("type=1,manufacturer=Amazon EC2,product=m7i.large",),
    "/latest/meta-data/spot/instance-action",
)
AZURE = Cloud(
    "azure",
    "",
    "Preempt",
    30,
    (
        "type=1,manufacturer=Microsoft Corporation,product=Virtual Machine",
        "type=3,manufacturer=Microsoft Corporation,asset=7783-7084-3265-9085-8269-3286-77",
    ),
    "/metadata/scheduledevents",
)


class Instance:
    """A guest that is somebody's instance, with the daemon in it and memory that is not used."""

    def __init__(self, boot: Boot, cloud: Cloud, config: str) -> None:
        self.cloud = cloud
        self.machine: Booted = boot(
            "trixie", memory_bytes=2 * GIB, config=config, qemu_arguments=cloud.qemu_arguments()
        )
        self.guest = self.machine.guest
        installed(self.machine)
        # With page cache: in half a minute there is little else that can go.
        self.workload = Workload(
            self.guest, cold_bytes=900 * MIB, warm_bytes=64 * MIB, read_bytes=400 * MIB
        )
        self.workload.start()
        self.guest.put(Path(metadata.__file__), PROGRAM, 0o755)
        self.guest.run(
            [
                *(
                    "systemd-run",
                    "--quiet",
                    f"--unit={SERVICE_UNIT}",
                    "-p",
                    "LimitMEMLOCK=infinity",
                ),
                *(*PYTHON, PROGRAM, "serve", cloud.service),
            ],
            timeout=SECONDS,
            check=True,
        )
        self.guest.run(["systemctl", "start", "hibprep"], timeout=SECONDS, check=True)
        (self.pid,) = desktop.shown(self.guest, "MainPID")
        self.knobs = knobs(self.machine)
        self.wait_for_looks(1)

    def announce(self) -> tuple[str, ...]:
        """The command that announces the end."""
        return (*PYTHON, PROGRAM, "announce", self.cloud.what, str(self.cloud.seconds))

    def announce_early(self) -> None:
        """Say that it is at risk; the daemon has prepared for it on return."""
        since = desktop.monotonic(self.guest)
        command = [*PYTHON, PROGRAM, "announce", self.cloud.early, "0"]
        self.guest.run(command, timeout=SECONDS, check=True)

        def prepared() -> str | None:
            for line in desktop.journal(self.guest, since=since):
                if f"notice {self.cloud.early} " in line.text and ": prepared, " in line.text:
                    return line.text
            return None

        print(until(prepared, "it has prepared", SECONDS, pause_seconds=2 * HALF))

    def withdraw(self) -> None:
        self.guest.run([*PYTHON, PROGRAM, "withdraw"], timeout=SECONDS, check=True)

    def wait_for_looks(self, number: int, since: float = 0.0) -> None:
        """Until the daemon has asked so often what is announced, from that moment of the guest."""

        def looked() -> bool:
            done = self.guest.run(["cat", str(metadata.ASKED)], timeout=SECONDS).text
            found = [line.split() for line in done.splitlines()]
            asked = [float(at) for at, _, path, _ in found if path == self.cloud.place]
            return sum(at >= since for at in asked) >= number

        try:
            until(looked, f"{self.cloud.place} is asked for", SECONDS, pause_seconds=HALF)
        except AssertionError as error:
            units = (desktop.UNIT, SERVICE_UNIT)
            lines = desktop.journal(self.guest, *units)
            raise AssertionError(f"{error}\n{desktop.said(lines[-60:])}") from None

    def hibernations(self) -> int:
        """How many there were since the boot, by the kernel's own log."""
        log = self.guest.run(["dmesg"], timeout=SECONDS, check=True).text
        return log.count("PM: hibernation: hibernation entry")

    def goes_on(self, hibernations: int) -> None:
        """Everything is as it was before: the memory, the settings, the daemon."""
        assert self.hibernations() == hibernations
        verified = self.workload.verify()
        assert verified["ok"], verified
        assert knobs(self.machine) == self.knobs
        state, pid, restarts = desktop.shown(self.guest, "ActiveState", "MainPID", "NRestarts")
        assert (state, pid, restarts) == ("active", self.pid, "0")
        assert desktop.holds_sleep_back(self.guest)


@dataclass(frozen=True)
class Off:
    """A notice, and what became of it: `taken_seconds` from it to the end of the machine."""

    deadline: datetime
    taken_seconds: float
    resume_seconds: float


def off_and_back(instance: Instance, command: tuple[str, ...]) -> Off:
    """Run what announces the end; the machine is off, and on again, on return."""
    guest = instance.guest
    try:
        timing = guest.hibernate(command, timeout=instance.cloud.seconds + MORE_SECONDS)
    except GuestTimeout as error:
        lines = desktop.journal(guest)
        raise AssertionError(f"{error}\n{desktop.said(lines[-40:])}") from None
    resumed = guest.resume(timeout=SECONDS)
    over(instance.machine)
    found = Off(deadline(timing), timing.seconds - timing.seconds_at(metadata.ANNOUNCED), resumed)
    lines = desktop.journal(guest)
    begun = desktop.first(lines, "notice")
    print(
        f"{instance.cloud.service}: off after {found.taken_seconds:.1f} s of "
        f"{instance.cloud.seconds}, back in {resumed:.1f} s; {timing.facts}\n"
        + desktop.said(lines[-25:] if begun is None else lines[-40:])
    )
    return found


def deadline(timing: HibernateTiming) -> datetime:
    """What was announced, by the guest's clock."""
    (line,) = [line for _, line in timing.said if line.startswith(metadata.ANNOUNCED)]
    return datetime.fromisoformat(line.split()[1])


def left_alone(instance: Instance, off: Off, *, past_deadline: bool) -> None:
    """The service goes on telling of what was acted on, since it knows of no hibernation; with
    `past_deadline` until it says that it has begun. Nothing comes of it."""
    guest = instance.guest
    program = "import time; print(time.time(), time.monotonic())"
    shown = guest.run([*PYTHON, "-c", program], timeout=SECONDS, check=True).text
    wall, since = (float(word) for word in shown.split())
    if past_deadline:
        since += max(0.0, off.deadline.timestamp() - wall)
    instance.wait_for_looks(LOOKS, since)
    assert guest.running
    instance.withdraw()
    instance.wait_for_looks(2, desktop.monotonic(guest))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("cloud", "rounds"), [(AWS, ROUNDS), (AZURE, ROUNDS)], ids=["aws-120", "azure-30"]
)
def test_off_in_time_and_back(boot: Boot, cloud: Cloud, rounds: int) -> None:
    instance = Instance(boot, cloud, RULES)
    taken = []
    for number in range(1, rounds + 1):
        if cloud.early:
            instance.announce_early()
        off = off_and_back(instance, instance.announce())
        taken.append(off.taken_seconds)
        left_alone(instance, off, past_deadline=number == rounds)
        instance.goes_on(hibernations=number)
    print(f"{cloud.service}, {cloud.seconds} s: off after {[round(each, 1) for each in taken]} s")
    assert max(taken) < cloud.seconds


@pytest.mark.timeout(1800)
def test_in_the_middle_of_an_idle_reclaim(boot: Boot) -> None:
    """The run that was begun for nobody gives way to the one with a deadline."""
    idle = desktop.AT_ONCE + RULES.partition("\n\n")[2]
    instance = Instance(boot, AWS, RULES)
    guest = instance.guest
    desk = desktop.open_session(guest)
    desk.hint(idle=False)
    desktop.put_program(guest)
    guest.put(idle.encode(), desktop.CONFIG_FILE)
    guest.run(["systemctl", "reload", desktop.UNIT], timeout=SECONDS, check=True)
    leaving = (*desktop.RETURNING, "sleep", f"--session={desk.path}", "--delay=0.5", "--")
    began = desktop.monotonic(guest)
    off = off_and_back(instance, (*leaving, *instance.announce()))
    assert guest.hibernation_result().returncode != TOO_LATE
    desk.hint(idle=False)
    lines = desktop.journal(guest, since=began)
    start = desktop.first(lines, "start: ")
    assert start is not None, desktop.said(lines)
    ended = desktop.first(lines, "run ended, interrupted", since=start.at_seconds)
    assert ended is not None, desktop.said(lines)
    left_alone(instance, off, past_deadline=False)
    instance.goes_on(hibernations=1)
    assert off.taken_seconds < AWS.seconds


@pytest.mark.timeout(1200)
def test_one_that_is_withdrawn(boot: Boot) -> None:
    """What was begun ends, what follows does not happen."""
    instance = Instance(boot, AWS, RULES_WITH_A_COMMAND)
    guest = instance.guest

    def running() -> bool:
        return guest.run(["pgrep", "-x", "tail"], timeout=SECONDS).returncode == 0

    guest.run(instance.announce(), timeout=SECONDS, check=True)
    until(running, "the command runs", SECONDS, pause_seconds=HALF)
    instance.withdraw()
    until(lambda: not running(), "the command is ended", SECONDS, pause_seconds=HALF)
    # as long as it would have taken to go on with the next rule
    instance.wait_for_looks(LOOKS, desktop.monotonic(guest))
    print(desktop.said(desktop.journal(guest)[-25:]))
    assert guest.running
    instance.goes_on(hibernations=0)
