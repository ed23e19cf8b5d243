# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which cloud this machine is with: by what its firmware says; the network is asked last, and only
by a virtual machine whose firmware names nobody.

The words are those that cloud-init's ds-identify and systemd's hwdb.d go by, and the providers'
own pages, such as
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html.
"""

from __future__ import annotations

from collections.abc import Callable

from hibprep.errors import HibprepError
from hibprep.kernel.dmi import Identity, read_identity
from hibprep.kernel.root import KernelRoot
from hibprep.notices import ProviderName
from hibprep.signals.cloud import alibaba, aws, azure, gcp, openstack, tencent
from hibprep.signals.cloud.base import Link, NoAnswerError, NotHereError, Provider
from hibprep.signals.cloud.link import Place

AUTO = "auto"

MakeLink = Callable[[Place], Link]

_MAKERS: dict[ProviderName, tuple[Place, Callable[[Link], Provider]]] = {
    ProviderName.GCP: (gcp.PLACE, gcp.Gcp),
    ProviderName.AWS: (aws.PLACE, aws.Aws),
    ProviderName.AZURE: (azure.PLACE, azure.Azure),
    ProviderName.ALIBABA: (alibaba.PLACE, alibaba.Alibaba),
    ProviderName.TENCENT: (tencent.PLACE, tencent.Tencent),
    ProviderName.OPENSTACK: (openstack.PLACE, openstack.Openstack),
}
# OpenStack is left out: whoever is found by asking would give no notices all the same.
_ASKED = tuple(name for name in _MAKERS if name is not ProviderName.OPENSTACK)

_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
_OPENSTACK_TAGS = ("OpenTelekomCloud", "SAP CCloud VM", "HUAWEICLOUD", "Samsung Cloud Platform")
# beginnings of sys_vendor, in small letters, of those whose guests are told nothing that is known
_SILENT = {
    "digitalocean": "DigitalOcean",
    "exoscale": "Exoscale",
    "hetzner": "Hetzner",
    "akamai": "Akamai",
    "linode": "Akamai",
    "scaleway": "Scaleway",
    "upcloud": "UpCloud",
    "vultr": "Vultr",
    # no clouds at all
    "apple": "Apple's virtual machines",
    "innotek gmbh": "VirtualBox",
    "parallels": "Parallels",
    "vmware": "VMware",
}
_ORACLE_TAG = "OracleCloud.com"
_NAME_IT = "if that is wrong, name the provider: notices.provider"


def find(root: KernelRoot, wanted: str, make_link: MakeLink) -> Provider:
    """The provider that is `wanted` by its name, or with AUTO the one that this machine is with.
    Blocks, for seconds where the network has to be asked.

    Raises NotHereError with the reason where there is none, and NoAnswerError where nobody answers
    who might a moment later.
    """
    if wanted != AUTO:
        return _made(ProviderName(wanted), make_link)
    identity = read_identity(root)
    found = recognised(identity)
    if found is not None:
        return _made(found, make_link)
    reason = nobody(identity)
    if reason:
        raise NotHereError(reason, _NAME_IT)
    return _asked(make_link)


def recognised(identity: Identity) -> ProviderName | None:
    """Pure: whom the firmware names."""
    vendor, product = identity.sys_vendor, identity.product_name
    versions = f"{identity.bios_version} {identity.product_version}".lower()
    if (
        vendor == "Amazon EC2"
        # instances under Xen have a maker "Xen", with versions such as 4.11.amazon
        or "amazon" in versions
        or identity.hypervisor_uuid.lower().startswith("ec2")
    ):
        return ProviderName.AWS
    if product == "Google Compute Engine":
        return ProviderName.GCP
    # maker and product are those of any Hyper-V
    if identity.chassis_asset_tag == _AZURE_TAG:
        return ProviderName.AZURE
    if vendor == "Alibaba Cloud" or product == "Alibaba Cloud ECS":
        return ProviderName.ALIBABA
    if vendor == "Tencent Cloud":
        return ProviderName.TENCENT
    if (
        vendor == "OpenStack Foundation"
        or product.startswith("OpenStack")
        or identity.chassis_asset_tag in _OPENSTACK_TAGS
    ):
        return ProviderName.OPENSTACK
    return None


def nobody(identity: Identity) -> str:
    """Pure: why this machine, whose firmware names no provider, is with none; "" where only the
    network can tell."""
    if identity.chassis_asset_tag == _ORACLE_TAG:
        return "this machine is with Oracle Cloud, which gives no notices that are known"
    vendor = identity.sys_vendor.lower()
    for beginning, who in _SILENT.items():
        if vendor.startswith(beginning):
            return f"this is a machine of {who}, which gives no notices that are known"
    if not identity.is_virtual:
        words = " ".join(filter(None, (identity.sys_vendor, identity.product_name)))
        return f"this is no virtual machine, and with no cloud ({words or 'no DMI'})"
    return ""


def _made(name: ProviderName, make_link: MakeLink) -> Provider:
    if name not in _MAKERS:
        raise NotHereError(f"{name} has no metadata service", "name one that has")
    place, make = _MAKERS[name]
    return make(make_link(place))


def _asked(make_link: MakeLink) -> Provider:
    """Whose metadata service answers: whose answers are all of that provider's forms."""
    silent: set[str] = set()
    for name in _ASKED:
        place, _ = _MAKERS[name]
        if place.address in silent:
            continue
        provider = _made(name, make_link)
        try:
            provider.watches()
        except NoAnswerError:
            silent.add(place.address)  # several share one: it need not be waited for again
        except HibprepError:
            continue  # somebody answers, and it is not this one
        else:
            return provider
    raise NoAnswerError(
        "a virtual machine of nobody that is known, and no metadata service answers"
    )
