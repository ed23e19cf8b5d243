# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block devices by the words that configuration names them with (systemd.device(5), fstab(5),
dm-crypt's crypttab(5)).
"""

from __future__ import annotations

import re

from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot

_BY = {
    "UUID": "by-uuid",
    "LABEL": "by-label",
    "PARTUUID": "by-partuuid",
    "PARTLABEL": "by-partlabel",
}
_NUMBER = re.compile(r"[0-9]{1,4}:[0-9]{1,7}", re.ASCII)
_THROWN_AWAY = frozenset({"/dev/urandom", "/dev/random", "/dev/hwrng"})
_CRYPTTAB = "/etc/crypttab"
_KEY, _OPTIONS = 2, 3  # the columns of crypttab, from 0


def number_of(root: KernelRoot, word: str) -> str:
    """The "MAJ:MIN" of what `resume=` and the like may name; "" when there is no such device."""
    word = word.strip("\"'")
    if _NUMBER.fullmatch(word):
        return word
    tag, equals, value = word.partition("=")
    if equals:
        if tag not in _BY:
            return ""
        # udev writes a UUID of FAT in upper case and all others in lower case
        found = (number_of(root, f"/dev/disk/{_BY[tag]}/{each}") for each in (value, value.lower()))
        return next(filter(None, found), "")
    if not word.startswith("/dev/"):
        return ""
    name = root.resolve(word).removeprefix("/dev/").replace("/", "!")
    number = root.try_read(f"/sys/class/block/{name}/dev")
    if number is not None:
        return number.strip()
    # not every relocated /dev has its links resolved; on the real machine stat(2) knows
    return root.device_of(word) if root.is_real and root.exists(word) else ""


def name_of(root: KernelRoot, number: str) -> str:
    """The /dev/… of a device number; "" when it is not known."""
    if not number:
        return ""
    for line in (root.try_read(f"/sys/dev/block/{number}/uevent") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "DEVNAME":
            return f"/dev/{value}"
    return ""


def uuid_of(root: KernelRoot, number: str) -> str:
    """The UUID of what is on that device, as udev saw it; "" when it is not known."""
    try:
        names = root.listdir("/dev/disk/by-uuid")
    except KernelFileError:
        return ""
    return next(
        (name for name in names if number_of(root, f"/dev/disk/by-uuid/{name}") == number), ""
    )


def mapper_name(root: KernelRoot, path: str) -> str:
    """The device-mapper name of the device node `path`; "" when it is none."""
    name = root.resolve(path).removeprefix("/dev/").replace("/", "!")
    return (root.try_read(f"/sys/class/block/{name}/dm/name") or "").strip()


def forgotten_keys(root: KernelRoot) -> dict[str, str]:
    """The device-mapper names that get another key, or are formatted, at every boot; and what
    crypttab(5) says of them."""
    found = {}
    for line in (root.try_read(_CRYPTTAB) or "").splitlines():
        fields = line.split()
        if len(fields) <= _KEY or fields[0].startswith("#"):
            continue
        options = fields[_OPTIONS].split(",") if len(fields) > _OPTIONS else []
        wiped = {"swap", "tmp"} & {option.partition("=")[0] for option in options}
        if fields[_KEY] in _THROWN_AWAY:
            found[fields[0]] = f"its key comes from {fields[_KEY]}"
        elif wiped:
            found[fields[0]] = f"the option {min(wiped)} formats it"
    return found
