# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a distribution keeps what is to be put: its own places, not those of local programs, since
systemd-sleep looks for hooks nowhere else (systemd-sleep(8))."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.kernel.root import KernelRoot

# Before /usr was merged, systemd was in /lib and looked for its hooks there alone.
_SYSTEMD = ("/usr/lib/systemd", "/lib/systemd")
_SIGNS_OF_SYSTEMD = ("systemd-sleep", "systemd", "system-sleep")

_ZSH_OF_DEBIAN = "/usr/share/zsh/vendor-completions"
_ZSH = "/usr/share/zsh/site-functions"


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one system that differ between distributions."""

    systemd: str = _SYSTEMD[0]
    zsh: str = _ZSH


def find_layout(root: KernelRoot) -> Layout:
    """The layout below `root`; that of a merged /usr where there is nothing to tell from."""
    systemd = next(
        (
            place
            for place in _SYSTEMD
            if any(root.exists(f"{place}/{sign}") for sign in _SIGNS_OF_SYSTEMD)
        ),
        _SYSTEMD[0],
    )
    debian = root.is_dir(_ZSH_OF_DEBIAN) or root.exists("/etc/debian_version")
    return Layout(systemd, _ZSH_OF_DEBIAN if debian else _ZSH)
