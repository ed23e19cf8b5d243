# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench hook``: what the hook of systemd-sleep costs when it has nothing to do.

In one guest, in turns: the interpreter alone, the hook before a suspend that it has no part in, and
the hook before a hibernation for which the daemon has nothing left to do. Timed inside the guest by
the program that starts them: a question from outside takes longer than the answer. In an emulated
guest everything takes many times longer; so the interpreter's own time is quoted beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from bench import options
from bench.lab import Guest, LabError, build, build_wheel

GIB = 1 << 30
RECIPE = "trixie"
PROMISE_SECONDS = 0.08  # beside the interpreter's own start
SECONDS = 300.0
_HOOK = "/usr/lib/systemd/system-sleep/hibprep"
_CONFIG = b'[daemon]\npolicy = "on-request"\n[target]\nkind = "size"\nsize = "64GiB"\n'
# name -> what is run
CASES: Mapping[str, tuple[str, ...]] = {
    "interpreter": ("/usr/bin/python3", "-IS", "-c", "pass"),
    "suspend": (_HOOK, "pre", "suspend"),
    "hibernate, with the daemon": (_HOOK, "pre", "hibernate"),
}
_TIMER = """
import json, subprocess, sys, time
cases, runs = json.loads(sys.argv[1]), int(sys.argv[2])
found = {name: [] for name in cases}
for _ in range(runs + 1):
    for name, argv in cases.items():
        begun = time.monotonic()
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
        found[name].append(time.monotonic() - begun)
        if "hibernate" in argv:
            subprocess.run([argv[0], "post", *argv[2:]], check=True, stderr=subprocess.DEVNULL)
print(json.dumps({name: times[1:] for name, times in found.items()}))
"""


def measure(guest: Guest, runs: int) -> dict[str, list[float]]:
    """The seconds of each run of each case. The first of each, which loads it, is left out."""
    guest.install(build_wheel())
    guest.run(["mkdir", "-p", "/etc/hibprep/hibprep.toml.d"], check=True)
    guest.put(_CONFIG, "/etc/hibprep/hibprep.toml.d/bench.toml")
    guest.run(["hibprep", "install"], timeout=SECONDS, check=True)
    guest.run(["systemctl", "daemon-reload"], timeout=SECONDS, check=True)
    guest.run(["systemctl", "start", "hibprep"], timeout=SECONDS, check=True)
    done = guest.run(
        ["/usr/bin/python3", "-I", "-c", _TIMER, json.dumps(CASES), str(runs)],
        timeout=SECONDS + runs * 10,
        check=True,
    )
    found: dict[str, list[float]] = done.json()
    return found


def summary(
    found: Mapping[str, Sequence[float]], kernel: str, accelerator: str
) -> dict[str, object]:
    """Medians, and what each takes beside the interpreter."""
    alone = median(found["interpreter"])
    return {
        "kernel": kernel,
        "accelerator": accelerator,
        "promise_seconds": PROMISE_SECONDS,
        "cases": {
            name: {
                "median_seconds": median(times),
                "min_seconds": min(times),
                "max_seconds": max(times),
                "beside_interpreter_seconds": median(times) - alone,
            }
            for name, times in found.items()
        },
        "kept": median(found["suspend"]) - alone <= PROMISE_SECONDS,
    }


def table(result: Mapping[str, object], found: Mapping[str, Sequence[float]]) -> Table:
    """For a person, in milliseconds."""
    drawn = Table(title=f"The hook, in ms: {result['kernel']} under {result['accelerator']}")
    for name in ("", "median", "min", "max", "beside the interpreter"):
        drawn.add_column(name, justify="right" if name else "left")
    alone = median(found["interpreter"])
    for name, times in found.items():
        values = (median(times), min(times), max(times), median(times) - alone)
        drawn.add_row(name, *(f"{value * 1000:.0f}" for value in values))
    return drawn


@click.command("hook")
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True)
@options.as_json
def hook(*, runs: int, as_json: bool) -> None:
    """What the hook of systemd-sleep costs when it has nothing to do."""
    console = Console(stderr=True)
    try:
        with console.status("looking for the image") as status:
            image = build(RECIPE, status.update)
            with Guest(image, memory_bytes=GIB, progress=status.update) as guest:
                guest.start()
                status.update("measuring")
                found = measure(guest, runs)
                result = summary(found, image.kernel_release, guest.accelerator)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print(json.dumps(result))
    else:
        options.output().print(table(result, found))
