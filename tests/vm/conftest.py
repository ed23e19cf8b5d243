# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real Debian guests that really hibernate. What only a kernel can tell is asked here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.lab import Guest, build, build_wheel

MIB = 1 << 20
GIB = 1 << 30
GUEST_SECONDS = 900  # a guest that is emulated, filled, prepared, hibernated and resumed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vm)
            item.add_marker(pytest.mark.must)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(GUEST_SECONDS))


@pytest.fixture(scope="session")
def wheel() -> Path:
    if os.geteuid() != 0:
        pytest.skip("guests are built and run as root")
    return build_wheel()


class Booted:
    """A running guest with hibprep in it."""

    def __init__(self, guest: Guest, boot_seconds: float) -> None:
        self.guest = guest
        self.boot_seconds = boot_seconds

    def hibprep(self, *arguments: str, timeout: float = 300, codes: tuple[int, ...] = (0,)) -> Any:  # noqa: ANN401 - whatever the JSON is
        """Run a command with --json and return the object it printed."""
        result = self.guest.run(["hibprep", *arguments, "--json"], timeout=timeout)
        assert result.returncode in codes, (arguments, result)
        return json.loads(result.text)

    def setting(self, path: str, value: str) -> None:
        self.guest.run(["sh", "-c", 'printf %s "$2" > "$1"', "sh", path, value], check=True)

    def cycle(self, *argv: str) -> Cycle:
        """Hibernate by this command, resume, and return what was measured from outside."""
        timing = self.guest.hibernate(list(argv) or ["systemctl", "hibernate"], timeout=300)
        resume_seconds = self.guest.resume()
        result = self.guest.hibernation_result()
        return Cycle(timing.seconds, resume_seconds, self.guest.hibernation_facts(), result.text)


class Cycle:
    """One hibernation and resume."""

    def __init__(self, hibernate: float, resume: float, facts: Any, text: str) -> None:  # noqa: ANN401
        self.hibernate_seconds = hibernate
        self.resume_seconds = resume
        self.facts = facts
        self.text = text

    @property
    def image_pages(self) -> int:
        """Pages in the image; kernels from 7.x on say only how many bytes were written."""
        if self.facts.need_to_copy_pages is not None:
            return int(self.facts.need_to_copy_pages)
        return int(self.facts.wrote_bytes) // 4096

    @property
    def report(self) -> Any:  # noqa: ANN401
        return json.loads(self.text)

    def __repr__(self) -> str:
        return (
            f"Cycle(hibernate {self.hibernate_seconds:.1f} s, resume {self.resume_seconds:.1f} s, "
            f"{self.facts})"
        )


Boot = Callable[..., Booted]


@pytest.fixture
def boot(wheel: Path, tmp_path: Path) -> Iterator[Boot]:
    """Boot guests; they are gone when the test ends, however it ends."""
    with ExitStack() as stack:

        def start(
            suite: str = "trixie",
            *,
            memory_bytes: int = 2 * GIB,
            swap_bytes: int | None = None,
            config: str = "",
            qemu_arguments: Sequence[str] = (),
        ) -> Booted:
            image = build(suite, print)
            guest = stack.enter_context(
                Guest(
                    image,
                    memory_bytes=memory_bytes,
                    swap_bytes=swap_bytes,
                    qemu_arguments=qemu_arguments,
                )
            )
            seconds = guest.start()
            guest.install(wheel)
            if config:
                guest.run(["mkdir", "-p", "/etc/hibprep"], check=True)
                guest.put(config.encode(), "/etc/hibprep/hibprep.toml", 0o644)
            return Booted(guest, seconds)

        yield start
