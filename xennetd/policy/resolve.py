"""One vif's attachment: the policy, the vif as xenstore has it and the host's links in, an Attachment or an error out.

Rule 1: whatever the vif and the host look like, the outcome is an Attachment or an XennetdError.
Rule 2: a sentence names the guest's own vif and host objects only; what else there is to say goes into the detail.
Rule 3: a rule that can't be evaluated is not passed over: the next one might let in what this one is to keep out.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import ENODEV, EOPNOTSUPP

from xennetd.model.attachment import Attachment, Mode
from xennetd.model.errors import Denied, GuestError, HostError, PolicyError
from xennetd.model.link import HostView, Link, is_link_name
from xennetd.model.text import visible
from xennetd.model.vif import Vif
from xennetd.policy.config import Match, Network, Policy, Rule
from xennetd.policy.pattern import matches

ANY_BRIDGE = "*"
"""In an error's `waits_on`: not one link's name, but any bridge that appears."""

_STOCK_SCRIPTS = frozenset({"vif-bridge", "vif-route", "vif-nat", "vif-openvswitch"})

_UNUSED_NODES = frozenset({"gatewaydev", "handle", "ip", "rate", "vlan"})
"""Nodes that nothing in mode bridge depends on: what is wrong with them is a warning, as for the stock script."""

# A backend's mode can only be told from the basename of its script.
_SCRIPT_MODES = {
    f"{prefix}-{mode}": mode for prefix in ("vif", "vif-xennetd") for mode in ("route", "nat", "openvswitch")
}


def owned(policy: Policy, vif: Vif) -> bool:
    """Return whether the vif is ours to configure or, in observe mode, to say what we would do with it.

    In the place of `xl devd` we do what the stock scripts would, for nobody else runs them there.
    """
    script = _basename(vif.script)
    if script in _STOCK_SCRIPTS and (policy.daemon.mode == "observe" or policy.daemon.devd):
        return True
    return any(matches(pattern, script) for pattern in policy.daemon.scripts)


def resolve(policy: Policy, vif: Vif, host: HostView) -> Attachment:
    """Return what the vif must be part of.

    Raises GuestError for a faulty `vif=` line, Denied or PolicyError for what the configuration says, HostError for a
    bridge that the host lacks. Their `waits_on` names the links, or is ANY_BRIDGE, whose change may help.
    """
    faults = [fault.sentence for fault in vif.faults if fault.node not in _UNUSED_NODES]
    if faults:
        raise GuestError(faults[0], detail="; ".join(faults))
    rule = first_match(policy.rules, vif)
    if rule is not None and rule.deny is not None:
        sentence = f"denied by policy: {rule.deny}"
        raise Denied(sentence, detail=f'{sentence} (policy "{rule.name}")')
    network = rule.network if rule is not None else None
    bridge = _network_bridge(network, host) if network is not None else _own_bridge(vif, host)
    mtu = vif.mtu or min((uplink.mtu for uplink in host.uplinks(bridge.index)), default=bridge.mtu)
    return Attachment(
        vif=vif.id,
        mode=Mode.BRIDGE,
        bridge=bridge.name,
        bridge_index=bridge.index,
        mtu=mtu,
        network=network.name if network is not None else None,
        policy=rule.name if rule is not None else None,
        warnings=(*_mtu_warnings(mtu, bridge), *_unused_warnings(vif)),
    )


def first_match(rules: Sequence[Rule], vif: Vif) -> Rule | None:
    """Return the rule that decides, None if no rule matches. Raises PolicyError if that can't be told."""
    for rule in rules:
        match holds(rule.match, vif):
            case True:
                return rule
            case None:
                raise PolicyError(
                    "a policy depends on the domain's name or uuid, which can't be read here",
                    detail=f'policy "{rule.name}" depends on the domain\'s name or uuid, which can\'t be read here',
                )
    return None


def holds(match: Match, vif: Vif) -> bool | None:
    """Return whether all conditions hold, None if that depends on a name or uuid that can't be read.

    A node that is absent counts as empty.
    """
    possible = (
        match.devid in (None, vif.id.devid)
        and match.domid in (None, vif.id.domid)
        and (vif.vm is None or _fits(match.vm, vif.vm))
        and (vif.uuid is None or _fits(match.uuid, vif.uuid.lower()))
        and _fits(match.mac, (vif.mac or "").lower())
        and _fits(match.bridge, vif.bridge or "")
        and _fits(match.script, _basename(vif.script))
        and _fits(match.type, vif.type)
    )
    if not possible:
        return False
    if (match.vm is not None and vif.vm is None) or (match.uuid is not None and vif.uuid is None):
        return None
    return True


def _fits(pattern: str | None, text: str) -> bool:
    return pattern is None or matches(pattern, text)


def _basename(script: str) -> str:
    return script.rpartition("/")[2]


def _network_bridge(network: Network, host: HostView) -> Link:
    """Return the bridge that the policy chose."""
    remedy = f"correct network.{network.name}.bridge in xennetd's configuration"
    link = host.link(network.bridge)
    if link is None:
        raise PolicyError(
            f'bridge "{network.bridge}" of network "{network.name}" does not exist: create it, or {remedy}',
            waits_on=frozenset({network.bridge}),
        )
    if link.kind != "bridge":
        raise PolicyError(_not_a_bridge(link, remedy), waits_on=frozenset({network.bridge}))
    return link


def _own_bridge(vif: Vif, host: HostView) -> Link:
    """Return the bridge that the vif's own nodes mean, as the stock vif-bridge script reads them."""
    script = _basename(vif.script)
    if mode := _SCRIPT_MODES.get(script):
        raise PolicyError(
            f"script={script} asks for mode {mode}, which this xennetd does not know yet: "
            "use script=vif-xennetd and a bridge, or let a policy name a network"
        )
    remedy = "correct bridge= in the domain's vif line"
    if not vif.bridge:
        if bridges := host.bridges():
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
    return link


def _not_a_bridge(link: Link, remedy: str) -> str:
    what = "an Open vSwitch bridge, not one of the kernel's" if link.kind == "openvswitch" else "not a bridge"
    return f'"{link.name}" is {what}: make it a bridge, or {remedy}'


def _unused_warnings(vif: Vif) -> tuple[str, ...]:
    """What the vif asks for and does not get: a bridge heeds neither VLANs yet, nor what is only for other modes."""
    warnings = [f"{fault.sentence}; it is not used" for fault in vif.faults if fault.node in _UNUSED_NODES]
    if vif.vlan is not None:
        warnings.append(f"vlan={visible(vif.vlan)} is not applied: this xennetd does not know VLANs yet")
    return tuple(warnings)


def _mtu_warnings(mtu: int, bridge: Link) -> tuple[str, ...]:
    if mtu <= bridge.mtu:
        return ()
    return (f'mtu {mtu} is above the {bridge.mtu} of bridge "{bridge.name}": larger frames may be dropped on the way',)
