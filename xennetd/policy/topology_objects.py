"""The host objects of the host's own topology: its links, their ports and their addresses. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.link_settings import VXLAN_PORT
from xennetd.model.objects import HostAddress, HostObject, Key, link_key
from xennetd.model.offload import Offload
from xennetd.model.topology import Settings, Topology, TopologyLink
from xennetd.policy.topology_mtu import oversized, wanted_mtu

_MIIMON = 100
"""Milliseconds between two looks at the carriers of a new bond's ports. The kernel's default, 0, means never."""


@dataclass(frozen=True, slots=True)
class TopologyFacts:
    """What the objects of a topology depend on, besides the configuration.

    `names` are the kernel's names of the NICs that the topology finds by MAC or by bus device, by their names in the
    configuration; a NIC that the host does not have is missing there. `macs` and `mtus` are those of the host's links,
    by the kernel's names. `accepts` has the values of net.ipv6.conf.NAME.accept_ra, without IPv6 none. `machine` is a
    text that no other host has (machine-id(5)).
    """

    names: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, str] = field(default_factory=dict)
    mtus: Mapping[str, int] = field(default_factory=dict)
    accepts: Mapping[str, int] = field(default_factory=dict)
    machine: str = ""


def topology_objects(topology: Topology, facts: TopologyFacts) -> tuple[HostObject, ...]:
    """Return all host objects of a topology. A NIC that only a port or a parent names is one of them."""
    objects: list[HostObject] = [_link(link, topology, facts) for link in topology]
    named = {link.name for link in topology}
    implied = dict.fromkeys(name for link in topology for name in link.below if name not in named)
    objects += [HostLink("nic", name) for name in implied]
    for link in topology:
        objects += [HostPort(_real(name, facts), link.name) for name in link.ports]
        objects += [HostAddress(_real(link.name, facts), address) for address in link.addresses or ()]
        if link.tx_checksum is not None:
            objects.append(Offload(_real(link.name, facts), link.tx_checksum))
    return tuple(objects)


def oversized_links(topology: Topology, facts: TopologyFacts) -> dict[Key, str]:
    """Return why links can't have the MTU that the configuration gives them (`topology_mtu.oversized`)."""
    mtus = {name: facts.mtus[_real(name, facts)] for name in _nics(topology, facts)}
    return {link_key(_real(name, facts)): sentence for name, sentence in oversized(topology, mtus).items()}


def _link(link: TopologyLink, topology: Topology, facts: TopologyFacts) -> HostLink:
    nic = link.kind == "nic"
    return HostLink(
        link.kind,
        _real(link.name, facts),
        parent=_real(link.parent, facts),
        settings=tuple((name, _real(value, facts) if name == "primary" else value) for name, value in link.settings),
        mac=None if nic else link.mac,
        mtu=wanted_mtu(link, topology, {name: facts.mtus[_real(name, facts)] for name in _nics(topology, facts)}),
        silent=False if link.adopts else None if link.addresses is None else not link.addresses,
        accept_ra=_accept_ra(link, topology, facts),
        initial=_initial(link),
        initial_mac=_initial_mac(link, topology, facts) if link.kind == "bridge" and link.mac is None else None,
        found=_found_by(link),
    )


def _nics(topology: Topology, facts: TopologyFacts) -> list[str]:
    """Return the topology's names of the links that the host has and the topology does not make."""
    made = {link.name for link in topology if link.kind != "nic"}
    return [name for name in topology.names - made if _real(name, facts) in facts.mtus]


def _real(name: object, facts: TopologyFacts) -> str:
    return facts.names.get(str(name), str(name))


def _found_by(link: TopologyLink) -> str:
    if link.kind == "nic" and link.mac is not None:
        return f"MAC {link.mac}"
    return f"bus device {link.path}" if link.path is not None else ""


def _accept_ra(link: TopologyLink, topology: Topology, facts: TopologyFacts) -> int | None:
    """Return how a link that adopts hears router advertisements: as the NIC below it did, also where it forwards.

    With 1 the kernel hears none on a link that forwards, and the host would lose its IPv6 address and default route
    (Documentation/networking/ip-sysctl.rst). A link that hears none by somebody's will stays so.
    """
    if facts.accepts.get(_real(link.name, facts)) == 0:
        return None
    base = topology.base(link) if link.adopts else None
    value = facts.accepts.get(_real(base, facts)) if base is not None else None
    return None if value is None else 2 if value else 0


def _initial(link: TopologyLink) -> Settings:
    """Return what a new link gets, and an existing one keeps as it is."""
    settings = dict(link.settings)
    if link.kind == "bridge" and not settings.get("stp_state"):
        return (("forward_delay", 0),)  # Guests need not wait for 15 s where nothing looks for loops.
    if link.kind == "vxlan":
        return (("port", VXLAN_PORT),)
    if link.kind == "bond" and not settings.get("arp_interval"):
        return (("miimon", _MIIMON),)
    return ()


def _initial_mac(link: TopologyLink, topology: Topology, facts: TopologyFacts) -> str:
    """Return the MAC of a new bridge: that of the NIC below its first port, else one that follows from its name.

    A bridge whose MAC nobody has set takes the lowest one of its ports, and another one with each port that comes or
    goes.
    """
    for name in topology.below(link):
        lower = topology.link(name)
        mac = facts.macs.get(_real(name, facts)) if lower is None or lower.kind == "nic" else None
        if mac is not None:
            return mac
    return derived_mac(facts.machine, link.name)


def derived_mac(machine: str, name: str) -> str:
    """Return the MAC of a link without a NIC below it, locally administered, and of this host alone."""
    digest = hashlib.blake2s(f"{machine}/{name}".encode(), digest_size=5).digest()
    return ":".join(("02", *(f"{byte:02x}" for byte in digest)))
