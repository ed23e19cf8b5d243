# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an installation leaves in a guest: every file, and the states of units."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.lab import Guest

# What a machine writes by itself while it runs, and what a package manager writes about packages.
_PASSING = re.compile(
    r"/(proc|sys|dev|run|tmp|opt|root|var/(cache|log|tmp))(/|$)"
    r"|/var/lib/(apt|dpkg|man-db|systemd/(?!deb-systemd))(/|$)"
)
_SYSTEMCTL = ("--no-legend", "--no-pager", "--plain", "--full")
_SECONDS = 300


@dataclass(frozen=True)
class Traces:
    """A guest at one moment: files (kind, mode, owner, where a link leads), what is in /etc, what
    units there are and whether they are enabled, and which of ours are loaded, or have failed."""

    files: frozenset[str]
    settings: frozenset[str]
    unit_files: frozenset[str]
    units: frozenset[str]

    def since(self, before: Traces) -> dict[str, list[str]]:
        """What is there and was not, and the other way round; empty when all is as it was."""
        found = {}
        for name in ("files", "settings", "unit_files", "units"):
            now, was = getattr(self, name), getattr(before, name)
            lines = [f"+ {line}" for line in sorted(now - was)]
            lines += [f"- {line}" for line in sorted(was - now)]
            if lines:
                found[name] = lines
        return found


def traces(guest: Guest) -> Traces:
    """Look at the guest now."""
    files = _lines(guest, "find", "/", "-xdev", "-printf", r"%p %y %m %U:%G %l\n")
    run_time = _lines(guest, "find", "/run", "-path", "/run/hibprep*")
    settings = _lines(guest, "find", "/etc", "-type", "f", "-exec", "sha256sum", "{}", "+")
    unit_files = _lines(guest, "systemctl", "list-unit-files", *_SYSTEMCTL)
    units = _lines(guest, "systemctl", "list-units", "--all", *_SYSTEMCTL)
    return Traces(
        frozenset([*(line for line in files if not _passes(line.split(" ", 1)[0])), *run_time]),
        frozenset(settings),
        frozenset(" ".join(line.split()) for line in unit_files),
        frozenset(" ".join(line.split()[:4]) for line in units if _matters(line)),
    )


def _passes(path: str) -> bool:
    byte_code_of_others = "__pycache__" in path and "hibprep" not in path
    return byte_code_of_others or _PASSING.match(path) is not None


def _matters(line: str) -> bool:
    ours = "hibprep" in line and "hibprep-lab" not in line
    return ours or "failed" in line.split()[:4]


def _lines(guest: Guest, *argv: str) -> list[str]:
    found = guest.run(argv, timeout=_SECONDS, check=True).text.splitlines()
    return [line.rstrip() for line in found]
