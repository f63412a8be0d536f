"""Guests whose link is a port of a bridge: the choice of the bridge and the attachment, for all modes with a bridge."""

from __future__ import annotations

from errno import ENODEV, EOPNOTSUPP
from functools import lru_cache

from xennetd.model.attachment import Assignment, Attachment, Name, segment
from xennetd.model.configuration import Network, Policy, Rule
from xennetd.model.empty import NONE
from xennetd.model.errors import GuestError, HostError, PolicyError
from xennetd.model.ip import IPNetwork
from xennetd.model.link import HostView, Link, is_link_name
from xennetd.model.marks import joined
from xennetd.model.objects import HostObject
from xennetd.model.placement import BridgePort
from xennetd.model.text import visible
from xennetd.model.vif import Vif
from xennetd.policy.addresses import uncontested
from xennetd.policy.guests import guest_addresses, guest_mac, guest_names, network_needs
from xennetd.policy.mode import AttachmentRequest

ANY_BRIDGE = "*"
"""In an error's `waits_on`: any bridge that appears, instead of one link's name."""


def attach(request: AttachmentRequest, assignment: Assignment) -> Attachment:
    """Return the attachment to the network's bridge or, without a network, to the bridge that the vif's nodes select.

    The MTU is the vif's, else the smallest of the bridge's uplinks, else the bridge's. Raises XennetdError if there is
    no such bridge, or if the guest can't have one of its addresses.
    """
    vif, network, host = request.vif, request.network, request.host
    bridge = network_bridge(network, host) if network is not None else own_bridge(vif, host)
    mtu = vif.mtu or min((uplink.mtu for uplink in host.uplinks(bridge.index)), default=bridge.mtu)
    mac, warnings = guest_mac(request, segment(bridge.name, assignment.network))
    addresses: tuple[IPNetwork, ...] = ()
    needs: list[HostObject] = []
    granted: frozenset[IPNetwork | Name] = NONE
    if network is not None and network.own:
        addresses = guest_addresses(request)
        kept, _ = uncontested(vif, addresses, request.others)
        names, name_warnings = guest_names(request, mac, bridge.name)
        warnings += name_warnings
        needs = network_needs(request, mac, bridge.name, addresses, names)
        granted = frozenset((*kept, *names))
    return Attachment(
        vif=vif.id,
        assignment=assignment,
        placement=_bridge_port(bridge.name, bridge.index, bridge.mtu, port_flags(request.policy, request.rule)),
        mtu=mtu,
        mac=mac,
        ips=addresses,
        granted=granted,
        needs=tuple(needs),
        warnings=(*_mtu_warnings(mtu, bridge), *warnings),
    )


@lru_cache(256)
def _bridge_port(bridge: str, index: int, mtu: int, flags: tuple[tuple[str, bool], ...]) -> BridgePort:
    """Return a placement; guests with the same one share the object."""
    return BridgePort(bridge, index, mtu, flags)


def port_flags(policy: Policy, rule: Rule | None) -> tuple[tuple[str, bool], ...]:
    """Return the bridge port's flags that policy decides, as (flag, whether it must be on).

    A flag that a guest's rule does not name is off for this guest, if policy decides the flag at all.
    """
    if not policy.port_flags:
        return rule.flags if rule is not None else ()
    flags = dict.fromkeys(sorted(policy.port_flags), False)
    return tuple({**flags, **dict(rule.flags if rule is not None else ())}.items())


def network_bridge(network: Network, host: HostView) -> Link:
    """Return the network's bridge. Raises PolicyError if the host has no bridge of this name.

    An own bridge must have xennetd's mark as well.
    """
    remedy = f"correct network.{network.name}.bridge in xennetd's configuration"
    link = host.link(network.bridge)
    waits_on = frozenset({network.bridge})
    if network.own and (link is None or not link.is_own_bridge):
        raise PolicyError(
            f'network "{network.name}" is not ready: `xennetctl status` shows the reason', waits_on=waits_on
        )
    if link is None:
        raise PolicyError(
            f'bridge "{network.bridge}" of network "{network.name}" does not exist: create it, or {remedy}',
            waits_on=waits_on,
        )
    if link.kind != "bridge":
        raise PolicyError(_not_a_bridge(link, remedy), waits_on=waits_on)
    return link


def own_bridge(vif: Vif, host: HostView) -> Link:
    """Return the bridge that the vif's own nodes select, as the stock vif-bridge script does.

    Without a `bridge` node this is the host's first bridge by name; a connected vif stays in the bridge that it has got
    so. xennetd's own bridges are never selected. Raises HostError if the bridge does not exist or is no bridge,
    GuestError for a name that the vif must not use.
    """
    name = vif.bridge
    link = host.link(name) if name and is_link_name(name) else None
    if link is not None and link.kind == "bridge" and not link.is_own_bridge:
        return link
    remedy = "correct bridge= in the domain's vif line"
    if not name:
        present = host.bridge_of(vif.id) if vif.hotplug_status == "connected" else None
        if present is not None and not present.is_own_bridge:
            return present
        if bridges := [bridge for bridge in host.bridges() if not bridge.is_own_bridge]:
            return bridges[0]
        raise HostError(
            "no bridge is named and the host has none: create one, or name one with bridge= in the domain's vif line",
            errno=ENODEV,
            waits_on=frozenset({ANY_BRIDGE}),
        )
    # libxl copies the node from the vif= line. For mode openvswitch a .TAG and :TRUNKS may follow the bridge's name.
    hint = " (VLANs behind the name are Open vSwitch's grammar)" if {".", ":"} & set(name) else ""
    if not is_link_name(name):
        raise GuestError(f'"{visible(name)}" can\'t be the name of a bridge{hint}: {remedy}')
    link = host.link(name)
    waits_on = frozenset({name})
    substitute = substitute_for(name)
    if link is None and substitute is not None:
        link = host.link(substitute)
        if link is not None and link.kind == "bridge":
            return link
        link = None
        waits_on |= {substitute}
    if link is None:
        raise HostError(
            f'bridge "{name}" does not exist{hint}: create it, or {remedy}', errno=ENODEV, waits_on=waits_on
        )
    if link.kind != "bridge":
        raise HostError(_not_a_bridge(link, remedy), errno=EOPNOTSUPP, waits_on=waits_on)
    if link.is_own_bridge:
        raise GuestError(f'bridge "{name}" belongs to a network of xennetd, which only a policy can assign: {remedy}')
    return link


def substitute_for(bridge: str) -> str | None:
    """Return the name of the bridge ethN for a missing bridge xenbrN, None for other names.

    The stock script does the same for configurations of old, in which the bridge ethN is called xenbrN.
    """
    return "eth" + bridge.removeprefix("xenbr") if bridge.startswith("xenbr") else None


def keeps(request: AttachmentRequest, link: Link, master: str | None) -> bool:
    """Return whether a link, a port of the bridge `master`, is in the bridge that the network or the vif names.

    A bridge that has got another name since the link joined it counts under its former name, too. A vif that names no
    bridge may be in any bridge but xennetd's own, to which only a policy leads.
    """
    if master is None:
        return False
    wanted = request.network.bridge if request.network is not None else request.vif.bridge
    if not wanted:
        bridge = request.host.link(master)
        return bridge is not None and not bridge.is_own_bridge
    names = (wanted, substitute_for(wanted))
    return master in names or joined(link.alias, link.group, link.master, names)


def _not_a_bridge(link: Link, remedy: str) -> str:
    kind = "an Open vSwitch bridge, not one of the kernel's" if link.kind == "openvswitch" else "not a bridge"
    return f'"{link.name}" is {kind}: make it a bridge, or {remedy}'


def _mtu_warnings(mtu: int, bridge: Link) -> tuple[str, ...]:
    if mtu <= bridge.mtu:
        return ()
    return (f'mtu {mtu} is above the {bridge.mtu} of bridge "{bridge.name}": larger frames may be dropped on the way',)
