# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench abort``: how soon Ctrl-C, SIGTERM and ``--timeout`` end a running ``prepare``.

On the kernel of this machine, with a temporary swap file and a process that fills memory, both of
which are taken away again. `tests/kernel` uses the same parts to look at what a stop leaves behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import click
import psutil
from rich.console import Console
from rich.table import Table

from bench.lab.paths import REPOSITORY, cache_root

SWAP_BYTES = 512 << 20
FILL_BYTES = 1 << 30
CALM_SECONDS = 60.0  # for what takes milliseconds on a machine with nothing else to do
PROMISE_SECONDS = 0.25
HISTORY = "/var/lib/hibprep"
_HIGHEST_PRIORITY = 32767
_BUSY_ELSEWHERE = "another hibprep is at work"
_AT_WORK_SECONDS = 1.0
_SYSCALL_READ = "0"  # x86-64; elsewhere "in the kernel" is told by the state alone

# Only to know when the time-out began: --timeout counts from the beginning of the run.
_PROGRAM = """
import os, sys, time
from hibprep.reclaim.base import Stop
within = Stop.within
def told(self, seconds):
    os.write(int(os.environ["HIBPREP_BENCH_FD"]), f"{time.monotonic()}\\n".encode())
    within(self, seconds)
if "HIBPREP_BENCH_FD" in os.environ:
    Stop.within = told
from hibprep.cli import main
main()
"""
_CLI = "from hibprep.cli import main; main()"
# Each line on its standard input makes it write to all of its memory again; pages differ from each
# other and are not easily compressed, so that neither zswap nor page merging makes them cheap.
_FILLER = """
import ctypes, mmap, os, sys
size, lock = int(sys.argv[1]), sys.argv[2] == "lock"
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
noise = os.urandom(mmap.PAGESIZE)
for at in range(0, size, mmap.PAGESIZE):
    memory[at : at + mmap.PAGESIZE] = noise
    memory[at : at + 8] = at.to_bytes(8, "little")
if lock:
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mlock(ctypes.c_void_p(start), ctypes.c_size_t(size)):
        sys.exit(f"mlock: {os.strerror(ctypes.get_errno())}")
print("filled", flush=True)
for line in sys.stdin:
    if line.startswith("check"):
        same = all(
            memory[at : at + 8] == at.to_bytes(8, "little")
            and memory[at + 8 : at + mmap.PAGESIZE] == noise[8:]
            for at in range(0, size, mmap.PAGESIZE)
        )
        print("intact" if same else "damaged", flush=True)
        continue
    for at in range(0, size, mmap.PAGESIZE):
        memory[at] = memory[at]
    print("touched", flush=True)
"""


class CannotMeasure(Exception):
    """What this machine lacks for it, in words."""


# --- what a run is given to work with ------------------------------------------------------------


@contextlib.contextmanager
def temporary_swap(size_bytes: int = SWAP_BYTES, directory: Path | None = None) -> Iterator[Path]:
    """A swap file of our own, of the highest priority, for one user at a time.

    One that a killed run has left is taken away first; no other swap is ever touched.
    """
    if os.geteuid() != 0:
        raise CannotMeasure("a swap file takes root")
    folder = directory or cache_root() / "swap"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "hibprep-tests.swap"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_swap(path)
        try:
            _make_swap(path, size_bytes)
            yield path
        finally:
            _remove_swap(path)


def renew_swap(path: Path) -> None:
    """Bring back whatever is in our swap file, so that there is room for another run."""
    subprocess.run(["swapoff", str(path)], check=True, capture_output=True)
    subprocess.run(
        ["swapon", "-p", str(_HIGHEST_PRIORITY), str(path)], check=True, capture_output=True
    )


def _swap_used_bytes(path: Path) -> int:
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        words = line.split()
        if words[0] == str(path):
            return int(words[3]) << 10
    return 0


def _make_swap(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError as error:
            raise CannotMeasure(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    for command in (
        ["mkswap", str(path)],
        ["swapon", "-p", str(_HIGHEST_PRIORITY), str(path)],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise CannotMeasure(f"{command[0]}: {done.stderr.strip()}")


def swap_is_on(path: Path) -> bool:
    """Whether that file is in use as swap."""
    names = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return str(path) in names


def _remove_swap(path: Path) -> None:
    if swap_is_on(path):
        subprocess.run(["swapoff", str(path)], check=True, capture_output=True)
    path.unlink(missing_ok=True)


class Filler:
    """A process that holds memory; a context manager that ends it."""

    def __init__(self, size_bytes: int = FILL_BYTES, *, lock: bool = False) -> None:
        self._arguments = [str(size_bytes), "lock" if lock else ""]
        self.size_bytes = size_bytes
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise CannotMeasure("the filler does not run")
        return self._process

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FILLER, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._expect("filled")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def touch(self) -> None:
        """Have all of it written to: it is back in memory, and its swap is given back."""
        self._say("touch")
        self._expect("touched")

    def intact(self) -> bool:
        """Whether every page holds what was put there."""
        self._say("check")
        return self._answer() == "intact"

    def swapped_bytes(self) -> int:
        """How much of it is in swap."""
        return swapped_bytes(self.pid)

    def _say(self, word: str) -> None:
        pipe = self._running.stdin
        if pipe is not None:
            pipe.write(f"{word}\n")
            pipe.flush()

    def _answer(self) -> str:
        pipe = self._running.stdout
        return pipe.readline().strip() if pipe is not None else ""

    def _expect(self, word: str) -> None:
        answer = self._answer()
        if answer != word:
            raise CannotMeasure(f"the process that fills memory ended ({answer or 'no answer'})")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(CALM_SECONDS)


def swapped_bytes(pid: int) -> int:
    """VmSwap of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmSwap:"):
            return int(line.split()[1]) << 10
    return 0


def make_cache(folder: Path, size_bytes: int) -> Path:
    """Clean page cache: a file that was written, synced and read."""
    path = folder / "cached"
    noise = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(noise)
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass
    return path


# --- running hibprep ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """One call of hibprep that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object on its standard output."""
        found = json.loads(self.stdout)
        if not isinstance(found, dict):
            raise CannotMeasure(f"no report: {self.stdout!r}")
        return found


class Call:
    """A running `hibprep ARGUMENTS`, with its history in a folder of its own.

    The mount of that folder is in a mount namespace that only this call sees, so that the history
    of the machine is not touched; all else is the machine's own.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, time_within: bool = False
    ) -> None:
        self._folder = folder
        history = folder / "history"
        history.mkdir(exist_ok=True)
        Path(HISTORY).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number = len(list(folder.glob("*.out")))
        environment = dict(os.environ, PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1")
        self._clock_read = -1
        passed: tuple[int, ...] = ()
        if time_within:
            self._clock_read, end = os.pipe()
            environment["HIBPREP_BENCH_FD"] = str(end)
            passed = (end,)
        with self._path("out").open("wb") as out, self._path("err").open("wb") as err:
            self.process = subprocess.Popen(
                # The file system's name is not ours to interpret: it is passed as an argument.
                ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                 'mount --bind "$0" "$1" && shift && exec "$@"', str(history), HISTORY,
                 sys.executable, "-c", _PROGRAM if time_within else _CLI, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                pass_fds=passed,
                start_new_session=True,
            )  # fmt: skip
        for descriptor in passed:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """The process of hibprep: neither unshare nor the shell leaves one behind."""
        return self.process.pid

    def writer(self) -> psutil.Process | None:
        """The child that writes to the kernel, when there is one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "hibprep.kernel.writer" in " ".join(child.cmdline()):
                        return child
        return None

    def wait_for_writer(self, seconds: float = CALM_SECONDS) -> psutil.Process | None:
        """The writer, as soon as it is there; None when the run ends without."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            found = self.writer()
            if found is not None:
                return found
            time.sleep(0.005)
        return None

    def within_began(self) -> float | None:
        """When the time-out of the run began to count (CLOCK_MONOTONIC); the call has ended."""
        if self._clock_read < 0:
            return None
        data = os.read(self._clock_read, 64)
        os.close(self._clock_read)
        self._clock_read = -1
        return float(data.split()[0]) if data else None

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(CALM_SECONDS)

    def done(self, seconds: float = CALM_SECONDS) -> Done:
        """Wait for its end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise CannotMeasure(f"hibprep did not end within {seconds:g} s") from None
        return Done(
            code, self._path("out").read_text(), self._path("err").read_text(errors="replace")
        )

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._number}.{kind}"


def run(arguments: Sequence[str], folder: Path, seconds: float = CALM_SECONDS * 2) -> Done:
    """`hibprep ARGUMENTS` to its end, after the end of whoever else is at it."""
    deadline = time.monotonic() + seconds
    while True:
        done = Call(arguments, folder).done(seconds)
        if _BUSY_ELSEWHERE not in done.stderr or time.monotonic() >= deadline:
            return done
        time.sleep(0.5)


# --- stopping it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopped:
    """One stop. `seconds` is from the signal, or the end of the time-out, to the end of the
    process, its report and the last setting put back included."""

    how: str
    seconds: float
    code: int
    stage: str
    in_kernel: bool | None  # whether the writer was at work when the signal came
    writer_pid: int
    ending: str


def in_kernel(pid: int) -> bool:
    """Whether the writer is at a request rather than waiting for one."""
    try:
        words = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    waiting = words[:2] == [_SYSCALL_READ, "0x0"]
    return not waiting


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends in time. Popen.wait() with a time-out looks only every 50 ms."""
    if process.poll() is not None:
        return True
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def stop_once(
    how: str,
    delay: float,
    folder: Path,
    arguments: Sequence[str] = ("prepare", "--target", "min"),
    *,
    at_work: bool = False,
) -> tuple[Stopped | None, Done]:
    """Begin a run and stop it `delay` seconds after its writer has appeared; None when it had
    ended by itself before that. `how` is SIGINT, SIGTERM, or timeout (counted from its start).
    With `at_work` a signal waits for a moment in which the writer is in the kernel."""
    whole = [*arguments, "--json"]
    if how == "timeout":
        whole += ["--timeout", f"{max(0.01, delay):.3f}"]
    call = Call(whole, folder, time_within=how == "timeout")
    writer = call.wait_for_writer()
    working: bool | None = None
    begin: float | None
    if how == "timeout":
        _wait(call.process, CALM_SECONDS)
        end = time.monotonic()
        started = call.within_began()
        begin = None if started is None else started + max(0.01, delay)
    else:
        _wait(call.process, delay)
        working = in_kernel(writer.pid) if writer else None
        deadline = time.monotonic() + _AT_WORK_SECONDS
        while at_work and writer and not working and time.monotonic() < deadline:
            working = in_kernel(writer.pid)
        begin = time.monotonic()
        if call.process.poll() is None:
            call.process.send_signal(signal.Signals[how])
        _wait(call.process, CALM_SECONDS)
        end = time.monotonic()
    done = call.done()
    if done.code not in (3, 130) or begin is None:
        return None, done
    report = done.report
    if report["ending"] not in ("interrupted", "deadline"):
        return None, done
    steps = report["steps"]
    return (
        Stopped(
            how=how,
            seconds=end - begin,
            code=done.code,
            stage=steps[-1]["stage"] if steps else "",
            in_kernel=working,
            writer_pid=writer.pid if writer else 0,
            ending=report["ending"],
        ),
        done,
    )


def seeded(seed: int) -> random.Random:
    """The same moments every time."""
    return random.Random(seed)  # noqa: S311 - nothing is kept secret with it


HOWS = ("SIGINT", "SIGTERM", "timeout")


def measure(
    stops: int,
    folder: Path,
    *,
    seed: int = 1,
    fill_bytes: int = FILL_BYTES,
    swap_bytes: int = SWAP_BYTES,
    dirty_bytes: int = 0,
    chunk_seconds: float = 0.0,
    tell: Callable[[Stopped], None] | None = None,
) -> list[Stopped]:
    """So many stops of `prepare --target min`, at random moments (of `seed`) of its run."""
    chance = seeded(seed)
    arguments = ["prepare", "--target", "min"]
    if chunk_seconds:
        config = folder / "bench.toml"
        config.write_text(f"[reclaim]\nchunk_seconds = {chunk_seconds}\n")
        arguments += ["--config", str(config)]
    found: list[Stopped] = []
    failures = 0
    with temporary_swap(swap_bytes) as swap, Filler(fill_bytes) as filler:
        longest = 2.0
        while len(found) < stops:
            filler.touch()
            if _swap_used_bytes(swap) > swap_bytes // 3:
                renew_swap(swap)
            if dirty_bytes:
                _make_dirty(folder, dirty_bytes)
            one, done = stop_once(
                HOWS[len(found) % len(HOWS)],
                chance.uniform(0.0, longest),
                folder,
                arguments,
                at_work=chance.random() < 0.7,
            )
            if one is None:
                failures += 1
                longest = max(0.1, longest * 0.8)  # it had ended by itself: be quicker
                if failures > stops + 20:
                    raise CannotMeasure(
                        f"runs end before they can be stopped: exit code {done.code}, "
                        f"{done.stderr.strip() or done.stdout[:200]}"
                    )
                continue
            found.append(one)
            if tell is not None:
                tell(one)
    return found


def _make_dirty(folder: Path, size_bytes: int) -> None:
    noise = os.urandom(1 << 20)
    with (folder / "dirty").open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(noise)


def at_percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def summary(found: Sequence[Stopped]) -> dict[str, Any]:
    """The figures of a measurement, by way of stopping and together."""
    groups: dict[str, list[Stopped]] = {"all": list(found)}
    for how in HOWS:
        groups[how] = [one for one in found if one.how == how]
    groups["in the kernel"] = [one for one in found if one.in_kernel]
    rows = {
        name: {
            "stops": len(group),
            "median_seconds": median(one.seconds for one in group),
            "p99_seconds": at_percentile([one.seconds for one in group], 99),
            "max_seconds": max(one.seconds for one in group),
        }
        for name, group in groups.items()
        if group
    }
    return {
        "kernel": os.uname().release,
        "page_bytes": mmap.PAGESIZE,
        "promise_seconds": PROMISE_SECONDS,
        "results": rows,
        "stops": [asdict(one) for one in found],
    }


@click.command()
@click.option("--stops", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the moments.")
@click.option(
    "--dirty",
    "dirty_mib",
    type=click.IntRange(min=0),
    default=0,
    metavar="MIB",
    help="So much unwritten data before every run: stops that fall into its writing back.",
)
@click.option(
    "--chunk",
    "chunk_seconds",
    type=click.FloatRange(0.02, 1),
    metavar="SECONDS",
    help="Another reclaim.chunk_seconds than that of hibprep's default configuration.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def abort(
    *, stops: int, seed: int, dirty_mib: int, chunk_seconds: float | None, as_json: bool
) -> None:
    """How soon Ctrl-C, SIGTERM and --timeout end a running prepare on this machine's kernel."""
    console = Console(stderr=True)
    cache_root().mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="abort-", dir=cache_root()) as folder,
            console.status("filling memory") as status,
        ):
            count = 0

            def tell(one: Stopped) -> None:
                nonlocal count
                count += 1
                status.update(f"{count} of {stops}: {one.how} {one.seconds * 1000:.0f} ms")

            found = measure(
                stops,
                Path(folder),
                seed=seed,
                dirty_bytes=dirty_mib << 20,
                chunk_seconds=chunk_seconds or 0.0,
                tell=tell,
            )
    except CannotMeasure as error:
        raise click.ClickException(str(error)) from error
    result = summary(found)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"Stops of prepare on {result['kernel']}, in milliseconds")
    for name in ("", "stops", "median", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in result["results"].items():
        figures = (row[f"{key}_seconds"] * 1000 for key in ("median", "p99", "max"))
        table.add_row(name, str(row["stops"]), *(f"{figure:.0f}" for figure in figures))
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m bench.abort`; returns the exit code."""
    try:
        abort.main(args=argv, prog_name="python -m bench abort", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
