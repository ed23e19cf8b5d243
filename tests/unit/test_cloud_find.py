# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which cloud a machine is with, and whom it asks to find that out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.kernel.dmi import DMI, Identity
from hibprep.kernel.root import KernelRoot
from hibprep.notices import ProviderName
from hibprep.signals.cloud.base import Link, NoAnswerError, NotHereError, Reply
from hibprep.signals.cloud.find import AUTO, find, nobody, recognised
from hibprep.signals.cloud.link import HttpLink, Place
from tests.cloud.gcp_server import GcpServer
from tests.cloud.server import CAPTIVE, LOOPBACK, MetadataServer

AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
METADATA = "169.254.169.254"


@dataclass
class FakeLink:
    """Answers all requests alike; None is nobody."""

    place: Place
    reply: Reply | None
    asked: list[str] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - of the protocol
        body: bytes | None = None,  # noqa: ARG002 - as above
        timeout_seconds: float = 2.0,  # noqa: ARG002 - as above
    ) -> Reply:
        self.asked.append(f"{method} {path}")
        if self.reply is None:
            raise NoAnswerError("nobody")
        return self.reply


@dataclass
class Net:
    """All the links that were made."""

    reply: Reply | None = None
    links: list[FakeLink] = field(default_factory=list)

    def link(self, place: Place) -> Link:
        made = FakeLink(place, self.reply)
        self.links.append(made)
        return made

    def asked(self) -> list[str]:
        return [link.place.address for link in self.links if link.asked]


def machine(tmp_path: Path, **words: str) -> KernelRoot:
    where = tmp_path / DMI.lstrip("/")
    where.mkdir(parents=True)
    for name, word in words.items():
        (where / name).write_text(word + "\n")
    return KernelRoot(tmp_path)


KNOWN = [
    (ProviderName.AWS, {"sys_vendor": "Amazon EC2", "product_name": "t3.small"}),
    (ProviderName.AWS, {"sys_vendor": "Amazon EC2", "product_name": "i3.metal"}),
    (
        ProviderName.AWS,
        {"sys_vendor": "Xen", "product_name": "HVM domU", "bios_version": "4.11.amazon"},
    ),
    (ProviderName.GCP, {"sys_vendor": "Google", "product_name": "Google Compute Engine"}),
    (
        ProviderName.AZURE,
        {
            "sys_vendor": "Microsoft Corporation",
            "product_name": "Virtual Machine",
            "chassis_asset_tag": AZURE_TAG,
        },
    ),
    (ProviderName.ALIBABA, {"sys_vendor": "Alibaba Cloud", "product_name": "Alibaba Cloud ECS"}),
    (ProviderName.TENCENT, {"sys_vendor": "Tencent Cloud", "product_name": "CVM"}),
    (
        ProviderName.OPENSTACK,
        {"sys_vendor": "OpenStack Foundation", "product_name": "OpenStack Nova"},
    ),
    (ProviderName.OPENSTACK, {"sys_vendor": "Huawei", "chassis_asset_tag": "HUAWEICLOUD"}),
]


@pytest.mark.parametrize(("name", "words"), KNOWN)
def test_the_firmware_names_the_provider_and_nobody_is_asked(
    tmp_path: Path, name: ProviderName, words: dict[str, str]
) -> None:
    net = Net()
    assert find(machine(tmp_path, **words), AUTO, net.link).name is name
    assert net.asked() == []
    assert len(net.links) == 1


def test_an_instance_under_xen_is_known_by_its_uuid() -> None:
    found = recognised(Identity(hypervisor_uuid="EC2E1916-9099-7CAF-FD21-012345ABCDEF"))
    assert found is ProviderName.AWS


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"sys_vendor": "LENOVO", "product_name": "20XWCTO1WW"}, r"no virtual.*LENOVO 20XW"),
        ({}, "no virtual machine.*no DMI"),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Surface"}, "no virtual machine"),
        ({"sys_vendor": "QEMU", "chassis_asset_tag": "OracleCloud.com"}, "Oracle Cloud"),
        ({"sys_vendor": "DigitalOcean", "product_name": "Droplet"}, "DigitalOcean"),
        ({"sys_vendor": "Hetzner", "product_name": "vServer"}, "Hetzner"),
        ({"sys_vendor": "innotek GmbH", "product_name": "VirtualBox"}, "VirtualBox"),
        ({"sys_vendor": "VMware, Inc."}, "VMware"),
    ],
)
def test_a_machine_of_nobody_is_told_why_and_asks_nobody(
    tmp_path: Path, words: dict[str, str], reason: str
) -> None:
    net = Net()
    with pytest.raises(NotHereError, match=reason) as told:
        find(machine(tmp_path, **words), AUTO, net.link)
    assert "notices.provider" in told.value.remedy
    assert net.links == []


HYPER_V = {"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}
LIBVIRT = {"sys_vendor": "QEMU", "product_name": "Standard PC (Q35 + ICH9, 2009)"}


@pytest.mark.parametrize("words", [LIBVIRT, HYPER_V])
def test_a_virtual_machine_of_nobody_known_asks_every_address_once(
    tmp_path: Path, words: dict[str, str]
) -> None:
    net = Net(reply=None)
    with pytest.raises(NoAnswerError, match="no metadata service answers"):
        find(machine(tmp_path, **words), AUTO, net.link)
    assert sorted(net.asked()) == ["100.100.100.200", "169.254.0.23", METADATA]
    assert all(len(link.asked) == 1 for link in net.links)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, CAPTIVE.body, CAPTIVE.headers),
        Reply(200, b"", {}),
        Reply(200, b"{}", {}),
        Reply(404, b"", {}),
        Reply(302, b"", {"location": "http://example.org/"}),
        Reply(403, b"", {}),
        Reply(500, b"", {}),
    ],
    ids=["captive", "empty", "object", "missing", "redirect", "forbidden", "broken"],
)
def test_whoever_answers_something_else_is_no_provider(tmp_path: Path, reply: Reply) -> None:
    with pytest.raises(NoAnswerError):
        find(machine(tmp_path, **LIBVIRT), AUTO, Net(reply).link)


def test_a_captive_portal_is_no_provider_over_a_real_link(tmp_path: Path) -> None:
    with MetadataServer() as server:
        server.always = CAPTIVE
        links = []

        def link(place: Place) -> Link:
            links.append(HttpLink(Place(LOOPBACK, server.port, place.host)))
            return links[-1]

        with pytest.raises(NoAnswerError):
            find(machine(tmp_path, **LIBVIRT), AUTO, link)
        for each in links:
            each.close()
        assert server.asked


def test_the_one_that_answers_as_it_should_is_found(tmp_path: Path) -> None:
    """A stand-in for GCP, whose firmware says nothing."""

    with GcpServer() as server:
        links = []

        def link(place: Place) -> Link:
            links.append(HttpLink(Place(LOOPBACK, server.port, place.host)))
            return links[-1]

        found = find(machine(tmp_path, **LIBVIRT), AUTO, link)
        for each in links:
            each.close()
        assert found.name is ProviderName.GCP


@pytest.mark.parametrize("name", [n for n in ProviderName if n not in ("command", "simulated")])
def test_whoever_is_named_is_taken_without_a_question(tmp_path: Path, name: ProviderName) -> None:
    net = Net()
    assert find(machine(tmp_path, **LIBVIRT), name, net.link).name is name
    assert net.asked() == []


@pytest.mark.parametrize("name", [ProviderName.COMMAND, ProviderName.SIMULATED])
def test_what_is_no_metadata_service_is_not_found(tmp_path: Path, name: ProviderName) -> None:
    with pytest.raises(NotHereError):
        find(machine(tmp_path), name, Net().link)


@given(
    st.builds(
        Identity,
        sys_vendor=st.text(max_size=20),
        product_name=st.text(max_size=20),
        chassis_asset_tag=st.text(max_size=20),
        bios_version=st.text(max_size=20),
        under_hypervisor=st.booleans(),
    )
)
def test_any_firmware_leads_to_one_of_the_three(identity: Identity) -> None:
    """A provider, a reason, or (a virtual machine alone) a question to the network."""
    if recognised(identity) is None and not nobody(identity):
        assert identity.is_virtual
