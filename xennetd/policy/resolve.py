"""One vif's attachment: the policy, the vif as xenstore has it and the host's links in, an Attachment or an error out.

Rule 1: whatever the vif and the host look like, the outcome is an Attachment or an XennetdError.
Rule 2: a sentence names the guest's own vif and host objects only; what else there is to say goes into the detail.
Rule 3: a rule that can't be evaluated is not passed over: the next one might let in what this one is to keep out.
Rule 4: which words of policy apply is known even where a vif can't be attached by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from errno import EAFNOSUPPORT
from ipaddress import ip_interface

from xennetd.config.pattern import matches
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Match, Network, Policy, Rule
from xennetd.model.errors import Denied, GuestError, HostError, PolicyError, XennetdError
from xennetd.model.ip import plain
from xennetd.model.link import HostView, Link
from xennetd.model.text import visible
from xennetd.model.vif import Vif
from xennetd.policy.addresses import OtherGuests
from xennetd.policy.modes import BRIDGE, MODES, ModeModule, Request, by_script, module_of
from xennetd.policy.network_needs import ruleset, usable
from xennetd.policy.routed import NO_IPV6

_STOCK_SCRIPTS = frozenset({"vif-bridge", "vif-route", "vif-nat", "vif-openvswitch"})

# A backend's mode can only be told from the basename of its script.
_SCRIPT_PREFIXES = ("vif-xennetd-", "vif-")
_SCRIPT_MODES = frozenset({"openvswitch", *(module.script for module in MODES.values() if module.script is not None)})


@dataclass(frozen=True, slots=True)
class Resolution:
    """Policy's word on one vif. `assignment` is None where not even the rule that applies can be told."""

    assignment: Assignment | None
    outcome: Attachment | XennetdError
    request: Request | None = None

    def keeps(self, link: Link, master: str | None) -> bool:
        """Return whether a link, a port of `master`, is where this has it, as far as the link itself tells."""
        request = self.request
        return request is not None and _module(request).keeps(request, link, master)


def owned(policy: Policy, vif: Vif) -> bool:
    """Return whether the vif is ours to configure or, in observe mode, to say what we would do with it.

    In the place of `xl devd` we do what the stock scripts would, for nobody else runs them there.
    """
    script = _basename(vif.script)
    if script in _STOCK_SCRIPTS and (policy.daemon.mode == "observe" or policy.daemon.devd):
        return True
    return any(matches(pattern, script) for pattern in policy.daemon.scripts)


def resolve(policy: Policy, vif: Vif, host: HostView, others: OtherGuests) -> Resolution:
    """Return what the vif must be part of, or why that can't be.

    The error is a GuestError for a faulty `vif=` line, Denied or PolicyError for what the configuration says, HostError
    for what the host lacks or somebody else has. Its `waits_on` names the links, and the other things, whose change may
    help.
    """
    try:
        rule = first_match(policy.rules, vif)
    except XennetdError as error:
        return Resolution(None, error)
    network = rule.network if rule is not None else None
    request = Request(policy, vif, rule, network, host, others, ruleset(policy))
    module = _module(request)
    assignment = Assignment(
        mode=module.mode.name,
        network=network.name if network is not None else None,
        policy=rule.name if rule is not None else None,
        bridge=module.bridge(request),
    )
    try:
        return Resolution(assignment, _attach(module, request, assignment), request)
    except XennetdError as error:
        return Resolution(assignment, error, request)


def _module(request: Request) -> ModeModule:
    """Return the module that decides: the network's mode, else the one that the vif's script asks for."""
    if request.network is not None:
        return module_of(request.network)
    mode = _script_mode(request.vif.script)
    module = by_script(mode) if mode is not None else None
    return module if module is not None else MODES[BRIDGE.name]


def _attach(module: ModeModule, request: Request, assignment: Assignment) -> Attachment:
    vif, rule, network = request.vif, request.rule, request.network
    warnings: tuple[str, ...] = ()
    unused = module.unused_nodes(network)
    faults = [fault.sentence for fault in vif.faults if fault.node not in unused]
    if faults:
        raise GuestError(faults[0], detail="; ".join(faults))
    if rule is not None and rule.deny is not None:
        sentence = f"denied by policy: {rule.deny}"
        raise Denied(sentence, detail=f'{sentence} (policy "{rule.name}")')
    if network is not None:
        if (problem := request.others.problem(network.name)) is not None:
            raise problem
        request, without = _without_ipv6(request, network)
        warnings += without
    elif (mode := _script_mode(vif.script)) is not None and by_script(mode) is None:
        raise PolicyError(
            f"script={_basename(vif.script)} asks for mode {mode}, which this xennetd does not know yet: "
            "use script=vif-xennetd and a bridge, or let a policy name a network"
        )
    attachment = module.attach(request, assignment)
    warnings += _unused_warnings(vif, unused)
    return replace(attachment, warnings=(*attachment.warnings, *warnings)) if warnings else attachment


def _without_ipv6(request: Request, network: Network) -> tuple[Request, tuple[str, ...]]:
    """Return the request as this host can serve it, and what is left out of it: on a kernel without IPv6, that.

    Raises HostError where nothing is left of the addresses that the guest is to have.
    """
    vif, rule = request.vif, request.rule
    if request.host.has_ipv6:
        return request, ()
    addresses = (*vif.ips, *(rule.ips if rule is not None else ()))
    lost = [plain(ip_interface(each)) for each in addresses if each.version == 6]
    if lost and len(lost) == len(addresses) and not network.dhcp:
        raise HostError(NO_IPV6, errno=EAFNOSUPPORT)
    if lost:
        vif = replace(vif, ips=tuple(each for each in vif.ips if each.version == 4))
        rule = replace(rule, ips=tuple(each for each in rule.ips if each.version == 4)) if rule is not None else None
    warnings = (f"{', '.join(lost)} is left out: this host's kernel has no IPv6",) if lost else ()
    return replace(request, vif=vif, rule=rule, network=usable(network, request.host)), warnings


def _script_mode(script: str) -> str | None:
    """Return the mode that a hotplug script asks for by its name, None for one that leaves it open."""
    name = _basename(script)
    for prefix in _SCRIPT_PREFIXES:
        if name.startswith(prefix):
            mode = name.removeprefix(prefix)
            return mode if mode in _SCRIPT_MODES else None
    return None


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


def _unused_warnings(vif: Vif, unused: frozenset[str]) -> tuple[str, ...]:
    """What the vif asks for and does not get: VLANs are not known yet, and some nodes are only for other modes."""
    warnings = [f"{fault.sentence}; it is not used" for fault in vif.faults if fault.node in unused]
    if vif.vlan is not None:
        warnings.append(f"vlan={visible(vif.vlan)} is not applied: this xennetd does not know VLANs yet")
    return tuple(warnings)
