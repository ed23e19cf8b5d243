# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab: Debian guests under QEMU that are built, booted, hibernated and resumed.

The names below are what tests and benchmarks use; everything else is a detail of its module.
"""

from bench.lab.console import ConsoleFacts, parse_console
from bench.lab.errors import (
    AgentError,
    GuestTimeout,
    HibernationFailed,
    HibernationRefused,
    LabError,
    ResumeFailed,
)
from bench.lab.guest import Guest
from bench.lab.images import Image, build
from bench.lab.recipe import RECIPES, Recipe
from bench.lab.request import HibernateTiming
from bench.lab.results import Result
from bench.lab.wheel import build_wheel
from bench.lab.workload_client import Residency, Workload

__all__ = [
    "RECIPES",
    "AgentError",
    "ConsoleFacts",
    "Guest",
    "GuestTimeout",
    "HibernateTiming",
    "HibernationFailed",
    "HibernationRefused",
    "Image",
    "LabError",
    "Recipe",
    "Residency",
    "Result",
    "ResumeFailed",
    "Workload",
    "build",
    "build_wheel",
    "parse_console",
]
