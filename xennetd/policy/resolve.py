"""One vif's attachment: the policy, the vif as xenstore has it and the host's links in, an Attachment or an error out.

Rule 1: whatever the vif and the host look like, the outcome is an Attachment or an XennetdError.
Rule 2: a sentence names the guest's own vif and host objects only; what else there is to say goes into the detail.
Rule 3: a rule that can't be evaluated is not passed over: the next one might let in what this one is to keep out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from xennetd.model.attachment import Attachment, Mode, Name, place
from xennetd.model.errors import Denied, GuestError, HostError, PolicyError
from xennetd.model.ground import GUEST_GROUP, DhcpHost, GroundObject, IPAddress, IPNetwork
from xennetd.model.link import HostView, Link
from xennetd.model.text import dns_label, visible
from xennetd.model.vif import Vif, XenbusState
from xennetd.policy import bridged, routed
from xennetd.policy.addresses import Others, guest_destinations, holder, uncontested
from xennetd.policy.config import Match, Network, Policy, Rule
from xennetd.policy.firewall import forward_element, rules
from xennetd.policy.mac import mac_warnings, stable_mac
from xennetd.policy.pattern import matches

_STOCK_SCRIPTS = frozenset({"vif-bridge", "vif-route", "vif-nat", "vif-openvswitch"})

_BRIDGE_UNUSED = frozenset({"gatewaydev", "handle", "ip", "rate", "vlan"})
_ROUTE_UNUSED = frozenset({"bridge", "handle", "rate", "vlan"})
"""Nodes that nothing depends on in a mode: what is wrong with them is a warning, as for the stock scripts."""

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


def resolve(policy: Policy, vif: Vif, host: HostView, others: Others) -> Attachment:
    """Return what the vif must be part of.

    Raises GuestError for a faulty `vif=` line, Denied or PolicyError for what the configuration says, HostError for
    what the host lacks or somebody else has. Their `waits_on` names the links, and the other things, whose change may
    help.
    """
    rule = first_match(policy.rules, vif)
    network = rule.network if rule is not None else None
    script = _SCRIPT_MODES.get(_basename(vif.script))
    is_routed = network.mode is Mode.ROUTE if network is not None else script in ("route", "nat")
    unused = _ROUTE_UNUSED if is_routed else _BRIDGE_UNUSED - ({"ip"} if network is not None and network.own else set())
    faults = [fault.sentence for fault in vif.faults if fault.node not in unused]
    if faults:
        raise GuestError(faults[0], detail="; ".join(faults))
    if rule is not None and rule.deny is not None:
        sentence = f"denied by policy: {rule.deny}"
        raise Denied(sentence, detail=f'{sentence} (policy "{rule.name}")')
    if network is not None and (problem := others.problem(network.name)) is not None:
        raise problem
    attach = _routed if is_routed else _bridged
    attachment = attach(policy, vif, rule, host, others)
    warnings = _unused_warnings(vif, unused)
    return replace(attachment, warnings=(*attachment.warnings, *warnings)) if warnings else attachment


def _bridged(policy: Policy, vif: Vif, rule: Rule | None, host: HostView, others: Others) -> Attachment:
    network = rule.network if rule is not None else None
    if network is None and (mode := _SCRIPT_MODES.get(_basename(vif.script))):
        raise PolicyError(
            f"script={_basename(vif.script)} asks for mode {mode}, which this xennetd does not know yet: "
            "use script=vif-xennetd and a bridge, or let a policy name a network"
        )
    bridge = bridged.network_bridge(network, host) if network is not None else bridged.own_bridge(vif, host)
    mtu = vif.mtu or min((uplink.mtu for uplink in host.uplinks(bridge.index)), default=bridge.mtu)
    mac, warnings = _mac(vif, rule, place(bridge.name, None), others)
    found: tuple[IPNetwork, ...] = ()
    needs: list[GroundObject] = []
    held: frozenset[IPNetwork | Name] = frozenset()
    if network is not None and network.own:
        found = _destinations(policy, vif, rule, network, others)
        kept, _ = uncontested(vif, found, others)
        names = _names(vif, mac, bridge.name, network, others)
        needs = _network_needs(vif, mac, bridge.name, network, found, names)
        held = frozenset((*kept, *names))
    return Attachment(
        vif=vif.id,
        mode=network.mode if network is not None else Mode.BRIDGE,
        bridge=bridge.name,
        bridge_index=bridge.index,
        mtu=mtu,
        mac=mac,
        ips=found,
        held=held,
        needs=frozenset(needs),
        network=network.name if network is not None else None,
        policy=rule.name if rule is not None else None,
        warnings=(*_mtu_warnings(mtu, bridge), *warnings),
    )


def _routed(policy: Policy, vif: Vif, rule: Rule | None, host: HostView, others: Others) -> Attachment:
    network = rule.network if rule is not None else None
    uplink = routed.uplink_of(vif, network, host)
    mac, warnings = _mac(vif, rule, place(None, network.name if network is not None else None), others)
    needs: list[GroundObject] = [rules(policy)]
    if network is None and _SCRIPT_MODES[_basename(vif.script)] == "nat":
        mode = Mode.NAT
        routing, found = routed.stock_nat(vif, mac, uplink, host)
    else:
        mode = Mode.ROUTE
        found = _destinations(policy, vif, rule, network, others)
        routing = routed.routing(mac, network, uplink, found, host)
    kept, lost = uncontested(vif, found, others)
    _check_host_addresses(found, host)
    if mode is Mode.NAT:
        needs += routed.nat_needs(uplink, kept, host)
    else:
        needed, said = routed.needs(network, uplink, kept, host)
        needs += needed
        warnings += said
    names: frozenset[Name] = frozenset()
    if network is not None:
        names = _names(vif, mac, None, network, others)
        needs += _network_needs(vif, mac, None, network, found, names)
    if not found:
        warnings.append("no ip= is given and no policy fixes an address: nothing is routed to this guest")
    if network is not None and network.dhcp and vif.vifname is not None:
        warnings.append(f'dhcp serves interfaces named vif* only, and this one is "{vif.vifname}": set its addresses')
    if found and mac is None:
        warnings.append("without a mac= no neighbour entry keeps others from answering for this guest's address")
    return Attachment(
        vif=vif.id,
        mode=mode,
        mtu=vif.mtu,
        mac=mac,
        routing=routed.without(routing, set(found) - set(kept)),
        ips=found,
        held=frozenset((*kept, *names)),
        needs=frozenset(needs),
        waits_on=frozenset({uplink.name, routed.DEFAULT_ROUTE}),
        network=network.name if network is not None else None,
        policy=rule.name if rule is not None else None,
        warnings=(*warnings, *lost),
    )


def _destinations(
    policy: Policy, vif: Vif, rule: Rule | None, network: Network | None, others: Others
) -> tuple[IPNetwork, ...]:
    fixed = rule.ips if rule is not None else ()

    def reserved() -> set[IPAddress]:
        return {ip for each in policy.rules if each.network is network and each is not rule for ip in each.ips}

    return guest_destinations(vif, network, fixed, reserved, others)


def _names(vif: Vif, mac: str | None, bridge: str | None, network: Network, others: Others) -> frozenset[Name]:
    """Return what the guest goes by in a network of ours: its MAC and its VM's name, unless another guest has them."""
    wanted: list[Name] = []
    if network.dhcp and mac is not None:
        wanted.append((mac, place(bridge, network.name)))
    if vif.vm is not None and any(forward.to == vif.vm for forward in network.forwards):
        wanted.append((vif.vm, network.name))
    return frozenset(name for name in wanted if holder(vif, name, others.namesakes(name, vif.id), others) is None)


def _network_needs(
    vif: Vif,
    mac: str | None,
    bridge: str | None,
    network: Network,
    found: tuple[IPNetwork, ...],
    names: Collection[Name],
) -> list[GroundObject]:
    """Return what a network of ours needs for one guest: dnsmasq's knowledge of it, and the ports that are its."""
    hosts = [each.network_address for each in found if each.prefixlen == each.max_prefixlen]
    needs: list[GroundObject] = []
    if network.dhcp:
        if mac is None:
            raise GuestError(f'network "{network.name}" gives addresses by MAC, and this vif has none: set mac=')
        label = dns_label(vif.vm or "")
        name = f"{label}.{network.domain}" if label is not None else None
        if (mac, place(bridge, network.name)) in names:
            needs.append(DhcpHost(network.name, mac, tuple(hosts), name))
    for forward in network.forwards:
        if forward.to == vif.vm and (vif.vm, network.name) in names:
            firsts: dict[int, IPAddress] = {}
            for address in hosts:
                firsts.setdefault(address.version, address)
            needs += [forward_element(forward, address) for address in firsts.values()]
    return needs


def _mac(vif: Vif, rule: Rule | None, where: str, others: Others) -> tuple[str | None, list[str]]:
    """Return the MAC that the guest has, or is to have, and what there is to say of it."""
    mac = vif.mac
    warnings: list[str] = []
    if rule is not None and rule.stable_mac:
        wanted = stable_mac(vif)
        if wanted is None:
            warnings.append("the domain's uuid can't be read here, so its MAC can't be a stable one")
        elif vif.state in (XenbusState.INITIALISING, XenbusState.INIT_WAIT) or mac == wanted:
            mac = wanted
        else:
            warnings.append(f"its MAC stays {mac} until it starts anew: the guest uses it already")
    claims = others.namesakes((mac, where), vif.id) if mac is not None else ()
    return mac, [*warnings, *mac_warnings(vif, mac, where, claims)]


def first_match(rules: Sequence[Rule], vif: Vif) -> Rule | None:
    """Return the rule that decides, None if no rule matches. Raises PolicyError if that can't be told."""
    for rule in rules:
        match holds(rule.match, vif):
            case True:
                return rule
            case None:
                raise PolicyError(
                    "a policy depends on the domain's name or uuid, which can't be read here",
                    detail=f"policy \"{rule.name}\" depends on the domain's name or uuid, which can't be read here",
                )
    return None


def same_rule(rules: Sequence[Rule], one: Vif, other: Vif) -> bool:
    """Return whether one rule decides about both vifs, or none about either. False if that can't be told."""
    try:
        return first_match(rules, one) is first_match(rules, other)
    except PolicyError:
        return False


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


def _check_host_addresses(found: Sequence[IPNetwork], host: HostView) -> None:
    """A guest can't have an address of the host's own, nor its router's."""
    for each in found:
        owner = host.owner(each)
        if owner is not None:
            sentence = f"address {each.network_address} is the host's own"
            detail = f"{sentence}, on {owner.name}"
            guests = owner.group == GUEST_GROUP  # its name is not this guest's business
            raise HostError(sentence if guests else detail, detail=detail, waits_on=frozenset({owner.name}))
        router = host.router(each)
        if router is not None:
            raise HostError(
                f"address {router} is that of the host's router, to which its default route leads: use another in ip=",
                waits_on=frozenset({routed.DEFAULT_ROUTE}),
            )


def _unused_warnings(vif: Vif, unused: frozenset[str]) -> tuple[str, ...]:
    """What the vif asks for and does not get: VLANs are not known yet, and some nodes are only for other modes."""
    warnings = [f"{fault.sentence}; it is not used" for fault in vif.faults if fault.node in unused]
    if vif.vlan is not None:
        warnings.append(f"vlan={visible(vif.vlan)} is not applied: this xennetd does not know VLANs yet")
    return tuple(warnings)


def _mtu_warnings(mtu: int, bridge: Link) -> tuple[str, ...]:
    if mtu <= bridge.mtu:
        return ()
    return (f'mtu {mtu} is above the {bridge.mtu} of bridge "{bridge.name}": larger frames may be dropped on the way',)
