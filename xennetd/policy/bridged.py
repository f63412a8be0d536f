"""The bridge that a vif is a port of: the one that its network names, or that its own nodes mean."""

from __future__ import annotations

from errno import ENODEV, EOPNOTSUPP

from xennetd.model.errors import GuestError, HostError, PolicyError
from xennetd.model.ground import BRIDGE_GROUP
from xennetd.model.link import HostView, Link, is_link_name
from xennetd.model.text import visible
from xennetd.model.vif import Vif
from xennetd.policy.config import Network

ANY_BRIDGE = "*"
"""In an error's `waits_on`: not one link's name, but any bridge that appears."""


def network_bridge(network: Network, host: HostView) -> Link:
    """Return the bridge that the policy chose. Raises PolicyError where the host has none of that name."""
    remedy = f"correct network.{network.name}.bridge in xennetd's configuration"
    link = host.link(network.bridge)
    waits_on = frozenset({network.bridge})
    if network.own and (link is None or link.kind != "bridge" or link.group != BRIDGE_GROUP):
        raise PolicyError(f'network "{network.name}" is not ready: xennetctl status says why', waits_on=waits_on)
    if link is None:
        raise PolicyError(
            f'bridge "{network.bridge}" of network "{network.name}" does not exist: create it, or {remedy}',
            waits_on=waits_on,
        )
    if link.kind != "bridge":
        raise PolicyError(_not_a_bridge(link, remedy), waits_on=waits_on)
    return link


def own_bridge(vif: Vif, host: HostView) -> Link:
    """Return the bridge that the vif's own nodes mean, as the stock vif-bridge script reads them."""
    remedy = "correct bridge= in the domain's vif line"
    if not vif.bridge:
        if bridges := [bridge for bridge in host.bridges() if bridge.group != BRIDGE_GROUP]:
            return bridges[0]
        raise HostError(
            "no bridge is named and the host has none: create one, or name one with bridge= in the domain's vif line",
            errno=ENODEV,
            waits_on=frozenset({ANY_BRIDGE}),
        )
    name = vif.bridge
    # libxl hands the node through as it was written; for mode openvswitch it may go on with .TAG and :TRUNK.
    hint = " (VLANs behind the name are Open vSwitch's grammar)" if {".", ":"} & set(name) else ""
    if not is_link_name(name):
        raise GuestError(f'"{visible(name)}" can\'t be the name of a bridge{hint}: {remedy}')
    link = host.link(name)
    waits_on = frozenset({name})
    if link is None and name.startswith("xenbr"):
        # Old configurations say xenbrN where the bridge has long been called ethN, its port pethN.
        substitute = "eth" + name.removeprefix("xenbr")
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
    if link.group == BRIDGE_GROUP:
        raise GuestError(f'bridge "{name}" is that of a network of xennetd, to which only a policy leads: {remedy}')
    return link


def _not_a_bridge(link: Link, remedy: str) -> str:
    what = "an Open vSwitch bridge, not one of the kernel's" if link.kind == "openvswitch" else "not a bridge"
    return f'"{link.name}" is {what}: make it a bridge, or {remedy}'
