"""What there is to say about the host's own links: their picture, their configuration, and ports that do not work."""

from __future__ import annotations

from collections.abc import Iterator

from xennetd.kernel.host_links import HostLinks
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.link_speed import speed_of
from xennetd.kernel.links import is_guest_port
from xennetd.kernel.rtnl_topology import LinkDetails
from xennetd.model.link import Link, is_link_name
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.link_settings import BOND_MODES, SETTINGS, VLAN_PROTOCOLS
from xennetd.model.manager_claim import ManagerClaims
from xennetd.model.status import LinkStatus
from xennetd.model.topology import ON_A_PARENT, Topology
from xennetd.policy.bond_ports import BondPort, failed_ports
from xennetd.render.topology_toml import topology_toml

_NO_SPEED = SETTINGS.keys() - {"bond"} | {"tun"}
"""Kinds of links that have no speed of their own. A tun or tap device says 10 Mbit/s, whatever it carries."""


class TopologyView:
    """Reads the host's own links. Nothing is changed."""

    def __init__(self, kernel: Kernel) -> None:
        self._links = kernel.links
        self._host_links = HostLinks(kernel.links, kernel.ask, kernel.read_link)

    def as_configured(self, claims: ManagerClaims) -> str:
        """Return the configuration that says what the host's own links are, without those of xennetd's networks.

        `claims` are what other network managers configure.
        """
        links: list[HostLink] = []
        ports: list[HostPort] = []
        for link in sorted(self._links, key=lambda link: link.name):
            if is_guest_port(link) or link.is_own or not is_link_name(link.name):
                continue
            for item in self._host_links.whole(link.name):
                if isinstance(item, HostPort):
                    ports.append(item)
                elif isinstance(item, HostLink):
                    links.append(item)
        made = {link.name for link in links}
        ours = {link.name: sorted(self._links.marked_addresses(link.index), key=str) for link in self._links}
        others = {
            link.name: [each for each in link.addresses if not each.is_link_local and each not in ours[link.name]]
            for link in self._links
        }
        return topology_toml(links, [port for port in ports if port.master in made], ours, others, claims)

    def picture(self) -> Iterator[LinkStatus]:
        """Yield all links of the host but its loopback and guests' interfaces, sorted by name."""
        links = sorted((link for link in self._links if not is_guest_port(link)), key=lambda link: link.name)
        ports: dict[int, list[str]] = {}
        for link in links:
            ports.setdefault(link.master, []).append(link.name)
        for link in links:
            if link.name == "lo":
                continue
            details = self._host_links.details(link.index) or LinkDetails()
            parent = self._links.by_index(details.parent) if details.kind in ON_A_PARENT else None
            yield LinkStatus(
                name=link.name,
                kind=details.kind if details.kind in SETTINGS else "nic",
                below=[parent.name] if parent is not None else ports.get(link.index, []),
                what=", ".join(_special(details)),
                addresses=[str(address) for address in link.addresses if not address.is_link_local],
                mtu=link.mtu,
                mac=link.address,
                up=link.up,
                carrier=link.has_carrier,
                ours=link.is_own or link.is_of_topology,
                speed=speed_of(link.name) if link.has_carrier and details.kind not in _NO_SPEED else None,
            )

    def failed_ports(self, topology: Topology) -> dict[tuple[str, str], str]:
        """Return a sentence for each port of a bond that carries nothing, by (bond, port)."""
        if not any(link.kind == "bond" for link in topology):
            return {}
        names = self._host_links.find_nics(topology)

        def port_of(link: Link) -> BondPort | None:
            details = self._host_links.details(link.index)
            return details.bond_port if details is not None else None

        return failed_ports(topology, self._links.link, lambda name: names.get(name, name), port_of)


def _special(details: LinkDetails) -> list[str]:
    """Return what is special about a link, in words."""
    settings = details.settings
    if details.kind == "vlan":
        return [
            f"VLAN {settings.get('id')}",
            *(["802.1ad"] if settings.get("protocol") == VLAN_PROTOCOLS["802.1ad"] else []),
        ]
    if details.kind == "vxlan":
        return [f"VNI {settings.get('id')}", *([f"to {settings['group']}"] if "group" in settings else [])]
    if details.kind == "bond":
        mode = settings.get("mode")
        return [BOND_MODES[mode]] if isinstance(mode, int) and mode < len(BOND_MODES) else []
    if details.kind == "bridge":
        return [word for name, word in (("stp_state", "STP"), ("vlan_filtering", "VLAN-aware")) if settings.get(name)]
    return []
