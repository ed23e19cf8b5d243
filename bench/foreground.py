# SPDX-License-Identifier: LGPL-2.1-or-later
"""A busy Redis in a guest, with cold memory beside it and with or without the daemon; one sample.

`bench/continuous.py` says in which order, keeps the samples, and makes the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench import touched
from bench.experiment import daemon
from bench.lab import Guest, LabError, Workload, build_wheel

MIB = 1 << 20
GIB = 1 << 30
MEMORY_BYTES = 3 * GIB
COLD_BYTES = 1280 * MIB  # more than can be freed while it is looked at
KEYS = 1_400_000  # some 190 MiB
PER_SECOND = 200  # requests at the fixed rate, of 64 keys each
# The image of what is not cold takes less than this by the default speeds, that of all far more.
WITHIN_SECONDS = 6.0
LEAD_SECONDS = 30.0  # until the fill has left no traces, and in both situations alike
LEAD_FREED_BYTES = 8 * MIB  # so much freed: the trickle has begun
TIMEOUT_SECONDS = 900.0
CONFIG_FILE = "/etc/hibprep/hibprep.toml"

_CALM_SECONDS = 120.0  # for what takes a moment on an emulated processor
_SLICE = "system.slice"
_REDIS = f"/sys/fs/cgroup/{_SLICE}/redis-server.service"
_DAEMON = f"/sys/fs/cgroup/{_SLICE}/{daemon.UNIT}"
_SCRIPT = Path(__file__).with_name("redis_load.py")
_REMOTE = "/opt/hibprep-lab/redis_load.py"
_PYTHON = ("/usr/bin/python3", "-I", "-S", _REMOTE)


class Situation(StrEnum):
    """What happens beside Redis."""

    QUIET = "quiet"  # the daemon does not run
    CONTINUOUS = "continuous"


@dataclass(frozen=True, slots=True)
class Sample:
    """One situation of one round.

    `latency`: of requests at the fixed rate, from when they were due, in seconds: p50, p95, p99,
    p999, max. `busy`: the same, without p999, of requests without a pause, and `per_second` of
    those. `lead_seconds` went before, `watched_seconds` are those of both parts together, and so
    are all counts: bytes and pages by the kernel's counters, `cold_bytes` what went of the cold
    program's memory, `fetched_back_pages` anonymous pages that Redis had to read from swap,
    `daemon_seconds` processor time of the daemon, `daemon_kernel_seconds` of it in the kernel.
    `waited_seconds` is for how long QEMU's threads waited for a CPU of this machine, the lead
    included: much of it, and the sample tells more of the machine than of the guest. `said`: what
    the daemon gave as its reason.

    The last three compare the sample with itself (`bench.touched`): in which part of the time the
    daemon was at work, and what throughput and p99 were by what they are without those times."""

    round: int
    situation: Situation
    accelerator: str
    lead_seconds: float
    requests: int
    latency: dict[str, float]
    busy: dict[str, float]
    watched_seconds: float
    anon_bytes: int
    file_bytes: int
    swapped_out_bytes: int
    swapped_in_bytes: int
    cold_bytes: int
    fetched_back_pages: int
    redis_bytes: int
    daemon_seconds: float
    daemon_kernel_seconds: float
    waited_seconds: float
    said: str
    touched_share: float
    touched_throughput: float
    touched_p99: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same in every round. `bytes_per_second`: of the daemon; 0 for its default."""

    seconds: float  # of each of the two parts
    bytes_per_second: int = 0


def config_of(setting: Setting) -> str:
    """The daemon's configuration."""
    lines = [
        '[daemon]\npolicy = "continuous"\n',
        "[continuous]",
        f"within_seconds = {WITHIN_SECONDS}",
    ]
    if setting.bytes_per_second:
        lines.append(f"bytes_per_second = {setting.bytes_per_second}")
    return "\n".join(lines) + "\n"


def make_ready(guest: Guest, setting: Setting) -> int:
    """What a guest needs once: hibprep as a service, Redis with its data set. Returns how many
    requests Redis answers in the wanted time without a pause."""
    guest.install(build_wheel())
    guest.run(["mkdir", "-p", str(Path(CONFIG_FILE).parent)], timeout=_CALM_SECONDS, check=True)
    guest.put(config_of(setting).encode(), CONFIG_FILE)
    guest.run(["hibprep", "config", "check"], timeout=_CALM_SECONDS, check=True)
    daemon.put(guest)
    guest.put(_SCRIPT, _REMOTE, 0o755)
    guest.run(["systemctl", "start", "redis-server.service"], timeout=_CALM_SECONDS, check=True)
    most = float(_asked(guest, ["fill", f"--keys={KEYS}"])["busy"]["per_second"])
    return max(1, round(most * setting.seconds))


def measure_one(
    guest: Guest, number: int, situation: Situation, setting: Setting, requests: int
) -> Sample:
    """Fill memory, load Redis, give the memory back."""
    name = f"cold-{number}-{situation}"
    cold = Workload(guest, cold_bytes=COLD_BYTES, slice_name=_SLICE, name=name)
    with ExitStack() as stack:
        cold.start()
        stack.callback(cold.stop)
        # Or the first rounds would be about what start-up left in the page cache.
        guest.run(["sync"], check=True)
        guest.run(["sysctl", "-q", "vm.drop_caches=3"], timeout=_CALM_SECONDS, check=True)
        if situation is Situation.CONTINUOUS:
            stack.callback(_stop, guest)
        before = waited_seconds(guest.pid)
        answer = _asked(guest, load_arguments(situation, setting, requests, cold.unit))
        waited = waited_seconds(guest.pid) - before
        said = _said(guest) if situation is Situation.CONTINUOUS else ""
    return sample_of(
        number, situation, answer, accelerator=guest.accelerator, waited=waited, said=said
    )


def load_arguments(
    situation: Situation, setting: Setting, requests: int, cold_unit: str
) -> list[str]:
    """What the program in the guest is told to do."""
    with_daemon = [f"--unit={daemon.UNIT}", f"--freed={LEAD_FREED_BYTES}"]
    return [
        *("load", f"--keys={KEYS}", f"--rate={PER_SECOND}", f"--seconds={setting.seconds}"),
        *(f"--requests={requests}", f"--lead={LEAD_SECONDS}"),
        *(with_daemon if situation is Situation.CONTINUOUS else []),
        f"--stat=cold={_cgroup(cold_unit)}/memory.stat:anon",
        f"--stat=redis={_REDIS}/memory.stat:anon",
        f"--stat=fetched={_REDIS}/memory.stat:workingset_refault_anon",
        "--beside=daemon",
        f"--stat=daemon={_DAEMON}/cpu.stat:usage_usec",
        f"--stat=kernel={_DAEMON}/cpu.stat:system_usec",
    ]


def sample_of(
    number: int,
    situation: Situation,
    answer: Mapping[str, Any],
    *,
    accelerator: str,
    waited: float = 0.0,
    said: str = "",
    page: int = 4096,
) -> Sample:
    """The sample from what the program in the guest printed."""
    marks: Sequence[Mapping[str, float]] = answer["marks"]
    first, last = marks[0], marks[-1]

    def grown(name: str) -> int:
        return int(last[name] - first[name])

    fixed, busy = (touched.steps_of(answer[name]) for name in ("fixed_steps", "busy_steps"))

    return Sample(
        round=number,
        situation=situation,
        accelerator=accelerator,
        lead_seconds=answer["lead_seconds"],
        requests=answer["requests"],
        latency=dict(answer["latency"]),
        busy=dict(answer["busy"]),
        watched_seconds=last["at"] - first["at"],
        anon_bytes=grown("pgsteal_anon") * page,
        file_bytes=grown("pgsteal_file") * page,
        swapped_out_bytes=grown("pswpout") * page,
        swapped_in_bytes=grown("pswpin") * page,
        cold_bytes=-grown("cold"),
        fetched_back_pages=grown("fetched"),
        redis_bytes=int(last["redis"]),
        daemon_seconds=grown("daemon") / 1e6,
        daemon_kernel_seconds=grown("kernel") / 1e6,
        waited_seconds=waited,
        said=said,
        touched_share=touched.share_of(busy + fixed),
        touched_throughput=touched.throughput(busy),
        touched_p99=touched.percentile(fixed, answer["microseconds"], 0.99),
    )


def waited_seconds(pid: int) -> float:
    """How long the threads of a process were ready to run and had no CPU, in all (the kernel's
    Documentation/scheduler/sched-stats.rst)."""
    found = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            found += int(path.read_text().split()[1])
    return found / 1e9


def _cgroup(unit: str) -> str:
    return f"/sys/fs/cgroup/{_SLICE}/{unit}"


def _asked(guest: Guest, arguments: Sequence[str]) -> dict[str, Any]:
    answer: dict[str, Any] = guest.run(
        [*_PYTHON, *arguments], timeout=TIMEOUT_SECONDS, check=True
    ).json()
    if answer["error"]:
        raise LabError(f"{arguments[0]}: {answer['error']}\n{_journal(guest)}")
    return answer


def _stop(guest: Guest) -> None:
    guest.run(["systemctl", "stop", daemon.UNIT], timeout=_CALM_SECONDS, check=True)


def _said(guest: Guest) -> str:
    """What the daemon has told systemd last; LabError when it has ended meanwhile."""
    argv = ["systemctl", "show", "--property=ActiveState,StatusText", daemon.UNIT]
    lines = guest.run(argv, timeout=_CALM_SECONDS, check=True).text.splitlines()
    found = dict(line.partition("=")[::2] for line in lines)
    if found.get("ActiveState") != "active":
        raise LabError(f"{daemon.UNIT} ended while it was watched:\n{_journal(guest)}")
    return found.get("StatusText", "")


def _journal(guest: Guest) -> str:
    argv = ["journalctl", "-u", daemon.UNIT, "-o", "cat", "-n", "40"]
    return guest.run(argv, timeout=_CALM_SECONDS).text
