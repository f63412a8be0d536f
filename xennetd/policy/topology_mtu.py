"""The MTU of each link of the host's own topology, from the NICs upwards. Pure.

A bridge must not forward what one of its ports can't send on, and a VLAN can't send more than the link that it is on.
"""

from __future__ import annotations

from collections.abc import Mapping

from xennetd.model.topology import Topology, TopologyLink

_DEFAULT = 1500
"""The MTU of a link that nothing else decides: a dummy, or a bridge without ports (ETH_DATA_LEN)."""

_VXLAN_HEADERS = 50
"""The bytes of the headers around a VXLAN's frame over IPv4, and of the frame's own header (VXLAN_HEADROOM)."""


def wanted_mtu(link: TopologyLink, topology: Topology, mtus: Mapping[str, int]) -> int | None:
    """Return the MTU that a link must have, None if it is left as it is. `mtus` are those of the host's NICs now.

    A key decides. Without one a bridge has the smallest MTU of its ports, and a VXLAN what its headers leave of the
    link that it is on. A VLAN and a bond follow the links below if the configuration gives one of those an MTU, and
    else have what the kernel gives them.
    """
    if link.mtu is not None:
        return link.mtu
    if link.kind in {"bridge", "vxlan"} or (link.kind in {"vlan", "bond"} and _is_decided_below(link, topology)):
        return possible_mtu(link, topology, mtus)
    return None


def possible_mtu(link: TopologyLink, topology: Topology, mtus: Mapping[str, int]) -> int | None:
    """Return the largest MTU that the links below a link allow, None while the host lacks one of them."""
    if link.kind == "vxlan" and not link.below:
        return _DEFAULT - _VXLAN_HEADERS
    if link.kind in {"dummy", "nic"} or not link.below:
        return mtus.get(link.name, _DEFAULT) if link.kind != "nic" else mtus.get(link.name)
    found: list[int] = []
    for name in link.below:
        mtu = _mtu_of(name, topology, mtus)
        if mtu is None:
            return None
        found.append(mtu)
    if link.kind == "vxlan":
        return min(found) - _VXLAN_HEADERS
    limits = [limit for limit in (_vlan_limit(link, topology),) if limit is not None]
    return min(found + limits)


def oversized(topology: Topology, mtus: Mapping[str, int]) -> dict[str, str]:
    """Return a sentence for each link whose `mtu` is more than the links below it can send, by the link's name.

    The kernel refuses such a VLAN. It takes such a bridge, which then drops what its port can't send.
    """
    found = {}
    for link in topology:
        possible = possible_mtu(link, topology, mtus) if link.mtu is not None and link.below else None
        if link.mtu is None or possible is None or link.mtu <= possible:
            continue
        limits = [name for name in link.below if _mtu_of(name, topology, mtus) == possible]
        why = f"{limits[0]} has {possible}" if limits else f"the vlan_mtu below it is {possible}"
        found[link.name] = (
            f"{link.name} can't have an MTU of {link.mtu}, since {why}: give that link more, or leave out the mtu of "
            f"{link.name}"
        )
    return found


def _mtu_of(name: str, topology: Topology, mtus: Mapping[str, int]) -> int | None:
    lower = topology.link(name)
    return mtus.get(name) if lower is None else lower.mtu or possible_mtu(lower, topology, mtus)


def _vlan_limit(link: TopologyLink, topology: Topology) -> int | None:
    """Return the smallest `vlan_mtu` of the NICs below a VLAN, None for another link or without one."""
    if link.kind != "vlan":
        return None
    lower = (topology.link(name) for name in topology.below(link))
    return min((nic.vlan_mtu for nic in lower if nic is not None and nic.vlan_mtu is not None), default=None)


def _is_decided_below(link: TopologyLink, topology: Topology) -> bool:
    lower = (topology.link(name) for name in topology.below(link))
    return any(each is not None and (each.mtu is not None or each.vlan_mtu is not None) for each in lower)
