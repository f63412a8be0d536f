"""The decision about one vif: from the policy, the vif in xenstore and the host's links to an Attachment or an error.

Rule 1: whatever the vif and the host look like, the outcome is an Attachment or an XennetdError.
Rule 2: an error's sentence names the guest's own vif and host objects only. Everything else goes into its detail.
Rule 3: a rule that can't be evaluated is never skipped. A later rule might admit a guest that this rule is to deny.
Rule 4: the assignment is known even where the vif can't be attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EAFNOSUPPORT
from functools import lru_cache
from ipaddress import ip_interface

from msgspec import Struct

from xennetd.config.pattern import matches
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Match, Network, Policy, Rule
from xennetd.model.errors import Denied, GuestError, HostError, PolicyError, XennetdError
from xennetd.model.ip import IPAddress, IPInterface, plain
from xennetd.model.link import HostView, Link
from xennetd.model.text import visible
from xennetd.model.value import replace
from xennetd.model.vif import Vif
from xennetd.policy.addresses import OtherGuests
from xennetd.policy.guests import guest_offload
from xennetd.policy.modes import BRIDGE, MODES, AttachmentRequest, ModeModule, by_script, module_of
from xennetd.policy.network_needs import ruleset, usable
from xennetd.policy.routed import NO_IPV6

STOCK_SCRIPTS = frozenset({"vif-bridge", "vif-route", "vif-nat", "vif-openvswitch"})
"""The hotplug scripts that Xen installs."""

# Only the basename of a backend's script says which mode the backend is for.
_SCRIPT_PREFIXES = ("vif-xennetd-", "vif-")
_SCRIPT_MODES = frozenset({"openvswitch", *(module.script for module in MODES.values() if module.script is not None)})


class Resolution(Struct, frozen=True):
    """The decision about one vif. `assignment` is None if it is unknown which rule applies (`first_match`).

    `requests` are those that the outcome may follow from: one, or one for each rule that may apply.
    """

    assignment: Assignment | None
    outcome: Attachment | XennetdError
    requests: tuple[AttachmentRequest, ...]

    def keeps(self, link: Link, master: str | None) -> bool:
        """Return whether a link, a port of the bridge `master`, is in the place that policy assigns, or may assign.

        Only the link's own properties count (`ModeModule.keeps`), so this is known even where `outcome` is an error.
        """
        return any(_module(request).keeps(request, link, master) for request in self.requests)


def owned(policy: Policy, vif: Vif) -> bool:
    """Return whether xennetd manages the vif or, in observe mode, reports how it would manage the vif.

    In the place of `xl devd` xennetd also manages the vifs of stock scripts: no other program runs these scripts there.
    """
    daemon = policy.daemon
    return _is_managed(vif.script, daemon.scripts, daemon.mode == "observe" or daemon.devd)


@lru_cache(256)
def _is_managed(script: str, patterns: tuple[str, ...], stock: bool) -> bool:
    name = _basename(script)
    return (stock and name in STOCK_SCRIPTS) or any(matches(pattern, name) for pattern in patterns)


def resolve(policy: Policy, vif: Vif, host: HostView, others: OtherGuests) -> Resolution:
    """Return what the vif must be part of, or the error why it can't be attached.

    The error is a GuestError for a faulty `vif=` line; Denied or PolicyError where the configuration must change;
    HostError for an object that the host lacks, or that another guest has. Its `waits_on` names the links, and the
    other things, whose change may help.
    """

    def request_for(rule: Rule | None) -> AttachmentRequest:
        network = rule.network if rule is not None else None
        return AttachmentRequest(policy, vif, rule, network, host, others, ruleset(policy))

    try:
        rule = first_match(policy.rules, vif)
    except XennetdError as error:
        return Resolution(None, error, tuple(map(request_for, _candidates(policy.rules, vif))))
    request = request_for(rule)
    network = request.network
    module = _module(request)
    assignment = _assignment(
        module.mode.name,
        network.name if network is not None else None,
        rule.name if rule is not None else None,
        module.bridge(request),
    )
    try:
        return Resolution(assignment, _attach(module, request, assignment), (request,))
    except XennetdError as error:
        return Resolution(assignment, error, (request,))


def forbids(policy: Policy, vif: Vif) -> bool:
    """Return whether the policy leaves a vif no network, whatever the host is like.

    That is so for a vif that a rule denies, and for one that is being removed.
    """
    if vif.pinned or not owned(policy, vif):
        return False
    if vif.removing:
        return True
    try:
        rule = first_match(policy.rules, vif)
    except PolicyError:
        return not _candidates(policy.rules, vif)
    return rule is not None and rule.deny is not None


@lru_cache(256)
def _assignment(mode: str, network: str | None, policy: str | None, bridge: str | None) -> Assignment:
    """Return an assignment; guests with the same one share the object."""
    return Assignment(mode, network, policy, bridge)


def _module(request: AttachmentRequest) -> ModeModule:
    """Return the module of the network's mode; without a network, of the mode that the vif's script selects."""
    if request.network is not None:
        return module_of(request.network)
    mode = _script_mode(request.vif.script)
    module = by_script(mode) if mode is not None else None
    return module if module is not None else MODES[BRIDGE.name]


def _attach(module: ModeModule, request: AttachmentRequest, assignment: Assignment) -> Attachment:
    vif, rule, network = request.vif, request.rule, request.network
    warnings: tuple[str, ...] = ()
    ignores_vlan = rule is not None and rule.ignores_vlan
    unused = module.unused_nodes(network) | ({"vlan"} if ignores_vlan else frozenset())
    if rule is not None and rule.deny is not None:
        sentence = f"denied by policy: {rule.deny}"
        raise Denied(sentence, detail=f'{sentence} (policy "{rule.name}")')
    faults = [fault.sentence for fault in vif.faults if fault.node not in unused]
    if faults:
        raise GuestError(faults[0], detail="; ".join(faults))
    if vif.vlan is not None and not ignores_vlan:
        # Without its VLAN the guest would reach what the VLAN is to keep it from.
        raise GuestError(
            f"vlan={visible(vif.vlan)} can't be applied, since this xennetd does not support VLANs yet: "
            'remove vlan= from the domain\'s vif line, or set vlan = "ignore" in a policy'
        )
    if network is not None:
        if (problem := request.others.problem(network.name)) is not None:
            raise problem
        if "ip" not in unused and (network.mode.routed or network.subnets):
            request, without = _without_ipv6(request, network)
            warnings += without
    elif (mode := _script_mode(vif.script)) is not None and by_script(mode) is None:
        raise PolicyError(
            f"script={_basename(vif.script)} asks for mode {mode}, which this xennetd does not support yet: "
            "use script=vif-xennetd and a bridge, or let a policy name a network"
        )
    attachment = module.attach(request, assignment)
    offload = guest_offload(request)
    if offload is not None:
        attachment = replace(attachment, needs=(*attachment.needs, offload))
    warnings += _unused_warnings(vif, unused)
    return replace(attachment, warnings=(*attachment.warnings, *warnings)) if warnings else attachment


def _without_ipv6(request: AttachmentRequest, network: Network) -> tuple[AttachmentRequest, tuple[str, ...]]:
    """Return the request without IPv6 if the kernel has none, and a warning about the addresses that it loses.

    Raises HostError if the guest's addresses are all IPv6 ones, and PolicyError if the network's subnets are.
    """
    vif, rule = request.vif, request.rule
    if request.host.has_ipv6:
        return request, ()
    fixed = rule.ips if rule is not None else ()
    addresses: Sequence[IPAddress | IPInterface] = fixed or vif.ips
    lost = [plain(ip_interface(address)) for address in addresses if address.version == 6]
    if lost and len(lost) == len(addresses) and not network.dhcp:
        raise HostError(NO_IPV6, errno=EAFNOSUPPORT)
    if lost:
        # The rule's addresses replace those of the vif= line, also if the host can provide none of them.
        vif = replace(vif, ips=() if fixed else tuple(ip for ip in vif.ips if ip.version == 4))
        rule = replace(rule, ips=tuple(ip for ip in fixed if ip.version == 4)) if rule is not None else None
    warnings = (f"{', '.join(lost)} is left out: this host's kernel has no IPv6",) if lost else ()
    return replace(request, vif=vif, rule=rule, network=usable(network, request.host)), warnings


@lru_cache(256)
def _script_mode(script: str) -> str | None:
    """Return the mode that the name of a hotplug script selects, None if the name selects none."""
    name = _basename(script)
    for prefix in _SCRIPT_PREFIXES:
        if name.startswith(prefix):
            mode = name.removeprefix(prefix)
            return mode if mode in _SCRIPT_MODES else None
    return None


def first_match(rules: Sequence[Rule], vif: Vif) -> Rule | None:
    """Return the first rule that matches, None if no rule matches.

    Raises PolicyError for a rule that can't be evaluated before one that matches.
    """
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


def _candidates(rules: Sequence[Rule], vif: Vif) -> list[Rule | None]:
    """Return the rules that may be the first match and let the vif in. None stands for the vif's own nodes."""
    found: list[Rule | None] = []
    for rule in rules:
        applies = holds(rule.match, vif)
        if applies is not False and rule.deny is None:
            found.append(rule)
        if applies:
            return found
    return [*found, None]


def holds(match: Match, vif: Vif) -> bool | None:
    """Return whether all conditions hold, None if this depends on a name or uuid that can't be read.

    An absent node counts as an empty text.
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


def _unused_warnings(vif: Vif, unused: frozenset[str]) -> tuple[str, ...]:
    """Return warnings about faulty nodes of the vif that have no effect."""
    return tuple(f"{fault.sentence}; it is not used" for fault in vif.faults if fault.node in unused)
