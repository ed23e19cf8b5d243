# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who made the machine, on trees of files as machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hibprep.kernel.dmi import CPUINFO, DMI, XEN, Identity, read_identity
from hibprep.kernel.root import KernelRoot


def tree(root: Path, files: dict[str, str]) -> KernelRoot:
    for path, content in files.items():
        where = root / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(content)
    return KernelRoot(root)


def test_what_the_firmware_says(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            f"{DMI}/sys_vendor": "Amazon EC2\n",
            f"{DMI}/product_name": "m5.large \n",
            f"{DMI}/bios_vendor": "Amazon EC2\n",
            f"{DMI}/bios_version": "1.0\n",
            f"{DMI}/chassis_asset_tag": "Amazon EC2\n",
        },
    )
    assert read_identity(root) == Identity(
        sys_vendor="Amazon EC2",
        product_name="m5.large",
        bios_vendor="Amazon EC2",
        bios_version="1.0",
        chassis_asset_tag="Amazon EC2",
    )


def test_xen_says_who_runs_it(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {f"{XEN}/type": "xen\n", f"{XEN}/uuid": "ec2e1916-9099-7caf-fd21-012345abcdef\n"},
    )
    found = read_identity(root)
    assert found.hypervisor_uuid == "ec2e1916-9099-7caf-fd21-012345abcdef"
    assert found.is_virtual


def test_a_machine_without_any_of_it(tmp_path: Path) -> None:
    found = read_identity(tree(tmp_path, {}))
    assert found == Identity()
    assert not found.is_virtual


def test_words_that_are_no_utf8(tmp_path: Path) -> None:
    root = tree(tmp_path, {f"{DMI}/product_name": ""})
    (tmp_path / DMI.lstrip("/") / "sys_vendor").write_bytes(b"ACME\xae\n")
    assert read_identity(root).sys_vendor == "ACME\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("flags", "virtual"),
    [
        ("fpu vme de hypervisor lahf_lm", True),
        ("fpu vme de lahf_lm", False),
        ("fpu nohypervisor hypervisor2", False),
    ],
)
def test_the_cpu_says_whether_it_is_one_of_a_hypervisor(
    tmp_path: Path, flags: str, *, virtual: bool
) -> None:
    text = f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
    assert read_identity(tree(tmp_path, {CPUINFO: text})).is_virtual is virtual


@pytest.mark.parametrize(
    "identity",
    [
        Identity(sys_vendor="QEMU", product_name="Standard PC (Q35 + ICH9, 2009)"),
        Identity(product_name="KVM Virtual Machine"),
        Identity(sys_vendor="Microsoft Corporation", product_name="Virtual Machine"),
        Identity(sys_vendor="VMware, Inc.", product_name="VMware7,1"),
        Identity(sys_vendor="innotek GmbH", product_name="VirtualBox"),
        Identity(sys_vendor="Xen", product_name="HVM domU"),
        Identity(bios_vendor="BHYVE"),
    ],
)
def test_virtual_machines(identity: Identity) -> None:
    assert identity.is_virtual


@pytest.mark.parametrize(
    "identity",
    [
        Identity(sys_vendor="LENOVO", product_name="20XWCTO1WW", bios_vendor="LENOVO"),
        Identity(sys_vendor="Microsoft Corporation", product_name="Surface Laptop 4"),
        Identity(sys_vendor="Dell Inc.", product_name="PowerEdge R640"),
    ],
)
def test_machines_that_are_none(identity: Identity) -> None:
    assert not identity.is_virtual
