# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the guest: keeps a Redis busy, and notes how quick it is. Standard library only.

``fill`` gives it a data set. ``load`` drives it in three parts, one after the other, so that it is
never idle: until what is to go on beside it does; requests at a fixed rate, far from all that it
can do, for the latency; and ``redis-benchmark`` without a pause, for the throughput.

At the fixed rate a request counts from when it was due, not from when it could be sent: a stall is
in the latency of every request that it held up. Each is for many small keys at once, so that even
an emulated processor comes by every page of the data set every few seconds, as a real one does.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import itertools
import json
import math
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

PORT = 6379
BATCH = 64  # keys a request
WRITE_EVERY = 10  # one request of so many writes
VALUE_BYTES = 40  # small enough for Redis to keep it beside its header: many on every page
REQUESTS_KEPT = 4096  # as many are made beforehand, and repeated
CLIENTS = 8
TRIAL_REQUESTS = 2000
FILL_AT_ONCE = 20_000
ANSWER_SECONDS = 120.0  # a Redis that answers no sooner does not answer
LONGEST_SECONDS = 300.0  # of `redis-benchmark`
PATIENCE_SECONDS = 240.0  # for what is to go on beside it
LOOK_SECONDS = 0.5
STEP_SECONDS = 5.0  # so often it is noted what has been done, by Redis and by what is beside it
# Later than this at the end of the fixed rate: it was too much for this machine.
MOST_BEHIND_SECONDS = 1.0
_COUNTERS = ("pgsteal_anon", "pgsteal_file", "pswpout", "pswpin")
_MCL_CURRENT_AND_FUTURE = 3
_FILL = (
    "for i = ARGV[1], ARGV[2] do redis.call('SET', string.format('key:%012d', i), "
    f"string.format('%0{VALUE_BYTES}d', i)) end return 'OK'"
)


class Trouble(Exception):
    """What keeps this from being measured."""


# --- Redis ----------------------------------------------------------------------------------------


def request_of(*words: bytes) -> bytes:
    """A command as Redis reads it (RESP)."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


class Redis:
    """One connection, one request at a time."""

    def __init__(self, port: int = PORT, timeout: float = ANSWER_SECONDS) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 16)

    def ask(self, request: bytes, reply_bytes: int) -> None:
        """Send a request and take in its reply, whose length is known."""
        self._socket.sendall(request)
        left = reply_bytes
        while left > 0:
            got = self._received(left)
            if left == reply_bytes and got[0] == ord("-"):
                raise Trouble(got.tobytes().decode(errors="replace").strip())
            left -= len(got)

    def command(self, *words: str) -> str:
        """A command with a reply of one line; that line."""
        self._socket.sendall(request_of(*(word.encode() for word in words)))
        reply = ""
        while not reply.endswith("\r\n"):
            reply += self._received(4096).tobytes().decode()
        if reply.startswith("-"):
            raise Trouble(f"{words[0]}: {reply[1:].strip()}")
        return reply[1:].strip()

    def processed(self) -> int:
        """How many commands it has answered since it was started."""
        self._socket.sendall(request_of(b"INFO", b"stats"))
        reply = b""
        while b"\r\n" not in reply or len(reply) < _bulk_bytes(reply):
            reply += self._received(4096).tobytes()
        found = re.search(rb"^total_commands_processed:([0-9]+)\r$", reply, re.MULTILINE)
        if found is None:
            raise Trouble("Redis does not tell how many commands it has answered")
        return int(found[1])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def _received(self, most: int) -> memoryview:
        got = self._socket.recv_into(self._buffer, min(most, len(self._buffer)))
        if not got:
            raise Trouble("Redis closed the connection")
        return memoryview(self._buffer)[:got]


def _bulk_bytes(reply: bytes) -> int:
    """How long a reply is whose beginning is this: "$LENGTH", so many bytes, and the line ends."""
    head, _, _ = reply.partition(b"\r\n")
    return len(head) + 2 + int(head[1:]) + 2


def fill(redis: Redis, keys: int) -> None:
    """Keys and values of one length each. No snapshot goes to the disk: it would be measured."""
    redis.command("CONFIG", "SET", "save", "")
    redis.command("FLUSHALL")
    for first in range(0, keys, FILL_AT_ONCE):
        last = min(first + FILL_AT_ONCE, keys) - 1
        redis.command("EVAL", _FILL, "0", str(first), str(last))
    found = int(redis.command("DBSIZE"))
    if found != keys:
        raise Trouble(f"Redis has {found} of {keys} keys")


def make_requests(keys: int, count: int = REQUESTS_KEPT) -> list[tuple[bytes, int]]:
    """Requests for keys by chance, the same every time, each with the length of its reply."""
    chance = random.Random(keys)  # noqa: S311 - nothing is kept secret with it
    read_bytes = len(b"*%d\r\n" % BATCH) + BATCH * (len(b"$%d\r\n\r\n" % VALUE_BYTES) + VALUE_BYTES)
    found = []
    for number in range(count):
        chosen = [chance.randrange(keys) for _ in range(BATCH)]
        names = [b"key:%012d" % key for key in chosen]
        if number % WRITE_EVERY:
            found.append((request_of(b"MGET", *names), read_bytes))
        else:
            values = [str(key).zfill(VALUE_BYTES).encode() for key in chosen]
            pairs = [word for pair in zip(names, values, strict=True) for word in pair]
            found.append((request_of(b"MSET", *pairs), len(b"+OK\r\n")))
    return found


def drive(
    redis: Redis, requests: Sequence[tuple[bytes, int]], rate: float, over: Callable[[int], bool]
) -> list[float]:
    """`rate` requests a second until `over` says so of their number; the seconds of each."""
    found: list[float] = []
    begin = time.monotonic()
    while not over(len(found)):
        due = begin + len(found) / rate
        ahead = due - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        redis.ask(*requests[len(found) % len(requests)])
        found.append(time.monotonic() - due)
    return found


class Lead:
    """The part before what is measured: at least so many seconds, and until a unit that is started
    at its beginning runs and so many bytes of anonymous memory were freed."""

    def __init__(self, seconds: float, unit: str, freed_bytes: int) -> None:
        self._least, self._freed_pages = seconds, freed_bytes // 4096
        self._unit = unit
        self._starting = subprocess.Popen(["systemctl", "start", unit]) if unit else None
        self._before = counters()["pgsteal_anon"]
        self.began = self._looked = time.monotonic()

    def over(self, number: int) -> bool:
        """Whether it has been long enough; looks at files only so often."""
        del number
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        if now > self.began + PATIENCE_SECONDS:
            raise Trouble(f"{self._unit}: freed next to nothing in {PATIENCE_SECONDS:.0f} s")
        if self._starting is None or now < self.began + self._least:
            return now >= self.began + self._least
        code = self._starting.poll()
        if code:
            raise Trouble(f"systemctl start {self._unit}: return code {code}")
        return code == 0 and counters()["pgsteal_anon"] - self._before >= self._freed_pages


def percentiles(seconds: Iterable[float]) -> dict[str, float]:
    """Each the least value that so many of the values are not above; in seconds."""
    found = sorted(seconds)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {
        name: round(found[max(0, math.ceil(share * len(found)) - 1)], 6)
        for name, share in shares.items()
    }


def benchmark(
    requests: int, keys: int, port: int, each_step: Callable[[], object] | None = None
) -> dict[str, float]:
    """So many requests as quickly as Redis answers: requests a second, and seconds a request.
    `each_step` is called every STEP_SECONDS meanwhile."""
    argv = [
        *("redis-benchmark", "-p", str(port), "-c", str(CLIENTS), "-n", str(requests)),
        *("-r", str(keys), "--csv", "MGET", *["key:__rand_int__"] * BATCH),
    ]
    begin = time.monotonic()
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        for step in itertools.count(1):
            due = begin + step * STEP_SECONDS
            try:
                out, errors = running.communicate(timeout=max(0.0, due - time.monotonic()))
                break
            except subprocess.TimeoutExpired:
                if due > begin + LONGEST_SECONDS:
                    running.kill()
                    raise
                if each_step is not None:
                    each_step()
    if running.returncode:
        raise Trouble(f"redis-benchmark: {errors.strip() or out.strip()}")
    return parse_benchmark(out)


def parse_benchmark(text: str) -> dict[str, float]:
    """The one row of its table; from 7.0 on it has a head and percentiles."""
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith('"test"')]
    rows = list(csv.DictReader(lines[heads[0] :])) if heads else []
    if len(rows) != 1:
        raise Trouble(f"redis-benchmark printed no table with one row: {text.strip()[:200]}")
    names = ("p50", "p95", "p99", "max")
    seconds = {name: float(rows[0][f"{name}_latency_ms"]) / 1e3 for name in names}
    return {"per_second": float(rows[0]["rps"]), **seconds}


def counters() -> dict[str, int]:
    """The kernel's counts of pages that were freed and swapped."""
    with Path("/proc/vmstat").open() as lines:
        found = dict(line.split() for line in lines)
    return {name: int(found.get(name, 0)) for name in _COUNTERS}


def mark(stats: Iterable[str]) -> dict[str, float]:
    """What is looked at before and after a part. `stats`: NAME=FILE, or NAME=FILE:KEY for a file
    with a key and a number a line; 0 for what is not there."""
    found: dict[str, float] = {"at": time.monotonic(), **counters()}
    for each in stats:
        name, _, where = each.partition("=")
        path, _, key = where.partition(":")
        found[name] = read_number(Path(path), key)
    return found


def mark_of(stats: Iterable[str], name: str) -> int:
    """One of them alone; 0 where it is not among them."""
    for each in stats:
        if name and each.startswith(f"{name}="):
            path, _, key = each.partition("=")[2].partition(":")
            return read_number(Path(path), key)
    return 0


def read_number(path: Path, key: str = "") -> int:
    """A number in a file of a cgroup; 0 where there is none."""
    try:
        words = path.read_text().split()
        return int(words[words.index(key) + 1] if key else words[0])
    except (OSError, ValueError, IndexError):
        return 0


def load(options: argparse.Namespace) -> dict[str, Any]:
    """The three parts."""
    gc.disable()  # a pause of this program is none of Redis's
    requests = make_requests(options.keys)
    redis = Redis(options.port)
    lead = Lead(options.lead, options.unit, options.freed)
    drive(redis, requests, options.rate, lead.over)
    marks = [mark(options.stat)]
    number = int(options.rate * options.seconds)
    every = max(1, round(options.rate * STEP_SECONDS))
    fixed: list[list[float]] = []
    busy_steps: list[list[float]] = []

    def look(steps: list[list[float]], done: int) -> None:
        steps.append([time.monotonic(), mark_of(options.stat, options.beside), done])

    def over(count: int) -> bool:
        if count % every == 0:
            look(fixed, count)
        return count >= number

    latencies = drive(redis, requests, options.rate, over)
    if latencies[-1] > MOST_BEHIND_SECONDS:
        raise Trouble(f"{options.rate:g} requests a second are too many for this machine")
    marks.append(mark(options.stat))
    look(busy_steps, redis.processed())
    busy = benchmark(
        options.requests, options.keys, options.port, lambda: look(busy_steps, redis.processed())
    )
    redis.close()
    marks.append(mark(options.stat))
    return {
        "lead_seconds": marks[0]["at"] - lead.began,
        "requests": len(latencies),
        "latency": percentiles(latencies),
        "busy": busy,
        "marks": marks,
        "microseconds": [round(each * 1e6) for each in latencies],
        "fixed_steps": fixed,
        "busy_steps": busy_steps,
    }


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """The data set, and what Redis does a second at most."""
    with closing(Redis(options.port)) as redis:
        fill(redis, options.keys)
    return {"busy": benchmark(TRIAL_REQUESTS, options.keys, options.port)}


def main() -> None:
    """``redis_load.py fill|load …``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("fill", "load"))
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="at the fixed rate")
    parser.add_argument("--requests", type=int, default=1000, help="as quickly as it goes")
    parser.add_argument("--lead", type=float, default=2.0, help="seconds before that, at least")
    parser.add_argument("--unit", default="", help="to be started at the beginning")
    parser.add_argument("--freed", type=int, default=0, help="bytes it frees before it counts")
    parser.add_argument("--beside", default="", help="the --stat to look at every few seconds")
    parser.add_argument("--stat", action="append", default=[], metavar="NAME=FILE[:KEY]")
    options = parser.parse_args()
    # Reclaim is not to take the one who watches; without the right to it, it goes without.
    ctypes.CDLL(None).mlockall(_MCL_CURRENT_AND_FUTURE)
    try:
        found = prepare(options) if options.what == "fill" else load(options)
    except (Trouble, OSError, subprocess.SubprocessError) as error:
        found = {"error": str(error)}
    json.dump({"error": "", **found}, sys.stdout)


if __name__ == "__main__":
    main()
