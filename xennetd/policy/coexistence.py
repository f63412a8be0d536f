"""Finds links that xennetd and another network manager both claim, or two other managers, and says what to do.

None of it is an error: a configuration that names what the distribution has configured so far is where every host
begins, and files of a manager that is on its way out must not keep xennetd from its work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xennetd.config.lines import KeyPath
from xennetd.model.manager_claim import ManagerClaim
from xennetd.model.topology import Topology, TopologyLink

Rivalry = tuple[KeyPath, str]
"""The path of the setting that names the link, and a sentence."""


def rivalries(topology: Topology, claims: Iterable[ManagerClaim]) -> Iterator[Rivalry]:
    """Yield what the managers of these claims and this topology contradict each other in.

    A NIC that is only below a VLAN stays with whoever gives it its addresses.
    """
    of_link: dict[str, list[ManagerClaim]] = {}
    for claim in claims:
        of_link.setdefault(claim.link, []).append(claim)
    for link in topology:
        if link.kind != "nic":
            for claim in of_link.get(link.name, ()):
                yield (link.kind, link.name), f"{link.title}: {_does(claim)} too: {_advice(claim, link)}"
        for port in link.ports:
            if (lower := topology.link(port)) is not None and lower.kind != "nic":
                continue
            for claim in of_link.get(port, ()):
                if wrong := _against(claim, link, topology):
                    yield (link.kind, link.name, "ports"), f"{link.title}: {wrong}: {_advice(claim, link)}"
    for name in sorted(topology.names):
        acting = [claim for claim in of_link.get(name, ()) if claim.acts]
        if len({claim.manager for claim in acting}) > 1:
            sources = " and ".join(_source(claim) for claim in acting)
            yield _place(topology, name), f'"{name}" is configured by {sources}: leave it to one of them'


def _against(claim: ManagerClaim, link: TopologyLink, topology: Topology) -> str:
    """Return what a manager does with a port of `link` that can't be, an empty text if nothing."""
    if claim.master == "":
        return f'{_source(claim)} takes "{claim.link}" out of any bridge or bond that it is a port of'
    if claim.master not in {None, link.name}:
        return f'{_source(claim)} makes "{claim.link}" a port of {claim.master}'
    if claim.addressing and not _adopted(claim, link, topology):
        return f'{_source(claim)} gives "{claim.link}", a port, {_addresses(claim)}'
    return ""


def _adopted(claim: ManagerClaim, link: TopologyLink, topology: Topology) -> bool:
    """Return whether a link above takes over the addresses that a manager gives a port once, as ifupdown does."""
    once = claim.manager == "ifupdown" and claim.addressing == "static"
    return once and any(
        each.adopts and (each.name == link.name or link.name in topology.below(each)) for each in topology
    )


def _does(claim: ManagerClaim) -> str:
    parts = ["makes it"] if claim.makes else []
    if claim.master:
        parts.append(f"makes it a port of {claim.master}")
    if claim.addressing:
        parts.append(f"gives it {_addresses(claim)}")
    return f"{_source(claim)} {' and '.join(parts) or 'configures it'}"


def _addresses(claim: ManagerClaim) -> str:
    words = {"DHCP": "addresses by DHCP", "static": "addresses", "automatic": "automatic IPv6 addresses"}
    return words[claim.addressing]


def _source(claim: ManagerClaim) -> str:
    return f"{claim.manager} ({', '.join(claim.files)})"


def _advice(claim: ManagerClaim, link: TopologyLink) -> str:
    """Return what an administrator can do about a claim on a link, or on a port of it."""
    name, file = claim.link, claim.files[0]
    match claim.manager:
        case "ifupdown" if claim.link != link.name and not claim.makes and not claim.master:
            way = f'write "iface {name} inet manual" in {file}'
        case "ifupdown" | "netplan":
            way = f'remove "{name}" from {file}'
        case "systemd-networkd" if claim.makes:
            way = f"remove {' and '.join(claim.files)}"
        case "systemd-networkd":
            before = file.rpartition("/")[2]
            way = (
                f"let a file in /etc/systemd/network that comes before {before} have "
                f'"Name={name}" in its [Match] and "Unmanaged=yes" in its [Link]'
            )
        case _:
            way = (
                f'remove {file}, or set "unmanaged-devices=interface-name:{name}" in the [keyfile] section of a file '
                "in /etc/NetworkManager/conf.d"
            )
    return f"{way}, or leave it out of xennetd's configuration"


def _place(topology: Topology, name: str) -> KeyPath:
    """Return the path of the setting that names a link."""
    link = topology.link(name)
    if link is not None:
        return link.kind, link.name
    above = next(link for link in topology if name in link.below)
    return above.kind, above.name, "parent" if above.parent else "ports"
