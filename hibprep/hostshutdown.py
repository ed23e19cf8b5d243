# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether guests are about to be saved because this host shuts down (libvirt-guests(8))."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable

from hibprep.kernel.root import KernelRoot

SAVES = "suspend"

# The script has the defaults (a distribution may have changed them) and reads one of the others.
_SCRIPTS = ("/usr/libexec/libvirt-guests.sh", "/usr/lib/libvirt/libvirt-guests.sh")
_SETTINGS = ("/etc/sysconfig/libvirt-guests", "/etc/default/libvirt-guests")
_ASSIGNMENT = re.compile(r"^ON_SHUTDOWN=([\"']?)([a-z]+)\1\s*(?:#.*)?$", re.MULTILINE)
_ASKING_SECONDS = 10.0

Ask = Callable[[tuple[str, ...]], str]


def what_becomes_of_guests(texts: Iterable[str]) -> str:
    """The last value of ON_SHUTDOWN in these texts, "" where there is none. Pure."""
    value = ""
    for text in texts:
        for match in _ASSIGNMENT.finditer(text):
            value = match[2]
    return value


def systemctl(arguments: tuple[str, ...]) -> str:
    """What systemctl answers, "" when it does not."""
    try:
        done = subprocess.run(
            ("systemctl", *arguments),  # noqa: S607 - of the service manager that runs us
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ASKING_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def why_not_saved(root: KernelRoot, ask: Ask = systemctl) -> str:
    """Why no guest is going to be saved now; "" when they are."""
    state = ask(("is-system-running",))
    if state != "stopping":
        return f"this host does not shut down (systemctl is-system-running: {state or 'no answer'})"
    if ask(("is-active", "libvirt-guests.service")) != "active":
        return "libvirt-guests.service does not run"
    texts = (root.try_read(path) or "" for path in (*_SCRIPTS, *_SETTINGS))
    found = what_becomes_of_guests(texts)
    if found != SAVES:
        return f"libvirt-guests saves none of them: ON_SHUTDOWN is {found or 'not known'}"
    return ""
