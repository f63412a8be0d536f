"""Notes on a valid policy, for `xennetctl check`: settings that can't work on this host, and likely mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from xennetd.config.lines import KeyPath
from xennetd.config.pattern import matches
from xennetd.model.configuration import Match, Network, Policy
from xennetd.model.ip import plain
from xennetd.model.topology import ON_A_PARENT, Topology, TopologyLink
from xennetd.model.value import replace
from xennetd.policy.coexistence import rivalries
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.mode import Remark
from xennetd.policy.modes import MODES, module_of
from xennetd.policy.resolve import STOCK_SCRIPTS

_WILD = frozenset("*?[")
_WIDEST_PUBLIC = {4: 16, 6: 32}
"""The shortest prefix of public addresses that a site may have to itself, by IP version."""

_MADE = re.compile(r".+\.[0-9]+|(bond|dummy|vlan|br|xenbr)[0-9]+", re.DOTALL)
"""Names of links that are made, not plugged in."""

_NOT_PUBLIC = frozenset({"internal", "home", "corp", "mail", "test", "example", "invalid", "localhost", "local", "lan"})
"""Top-level domains that the root zone will not have: RFC 6761, RFC 6762, and ICANN's resolutions of 2018-02-04 and
2024-07-29. `lan` is not reserved, but half of all home routers use it."""

_CONDITIONS = tuple(field.name for field in fields(Match))


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence. An administrator must correct an `error` before the daemon can serve this policy.

    `key` is the path of the setting that the note is about: `("network", NAME, SETTING)`, `("daemon", SETTING)`, or
    `("policy", NUMBER)` with the rule's number in all files, from 0. It is empty where the host is at fault.
    """

    sentence: str
    error: bool = False
    key: KeyPath = ()


Notes = tuple[Note, ...]


def check(policy: Policy, host: HostNotes) -> Notes:
    """Return the notes that an administrator should know, errors first."""
    about_links = (*_root_notes(policy.topology, host), *_missing_links(policy, host))
    errors = (*_errors(policy, host), *errors_of(about_links))
    notes = (*_daemon_notes(policy, host), *remarks_of(about_links), *_network_notes(policy, _as_applied(policy, host)))
    rivals = (Note(sentence, key=key) for key, sentence in rivalries(policy.topology, host.claims))
    return (*errors, *notes, *rivals, *_rule_notes(policy))


def _root_notes(topology: Topology, host: HostNotes) -> Iterator[Note]:
    """Yield an error for each link whose section touches a link by which the root file system comes over the network.

    A VLAN on such a link does not touch it, unless it takes over the addresses.
    """
    for link in topology:
        setting, touched = "ports", host.root_links.intersection(link.ports)
        if not touched and link.adopts:
            setting, touched = "addresses", host.root_links.intersection(topology.below(link))
        if not touched and link.name in host.root_links and not _only_describes(link):
            setting, touched = "", frozenset({link.name})
        for name in sorted(touched):
            sentence = f'{link.title}: the root file system comes by "{name}", which must not be touched'
            yield Note(sentence, error=True, key=(link.kind, link.name, *([setting] if setting else [])))
    for what in host.root_unknown if topology else ():
        yield Note(
            f"the root file system comes over the network ({what}) by a link that xennetd can't find out: see that no "
            "section touches that link"
        )


def _only_describes(link: TopologyLink) -> bool:
    """Return whether a section only says how a NIC is found and what it can do."""
    return replace(link, mac=None, path=None, vlan_mtu=None) == TopologyLink("nic", link.name)


def _missing_links(policy: Policy, host: HostNotes) -> Notes:
    """Return a note for each link that the topology is built on and that the host does not have.

    It is an error for a link that no hardware brings: a VLAN or a bond that has no section.
    """
    if host.links is None:
        return ()
    topology, notes = policy.topology, list[Note]()
    for link in topology:
        key = (link.kind, link.name, "parent" if link.kind in ON_A_PARENT else "ports")
        for name in link.below:
            if topology.link(name) is not None or name in host.links:
                continue
            if _MADE.fullmatch(name):
                sentence = f'{link.title}: "{name}" has no section, and does not exist on this host'
                notes.append(Note(sentence, error=True, key=key))
            else:
                notes.append(Note(f'{link.title}: there is no NIC "{name}" now', key=key))
    return tuple(notes)


def _as_applied(policy: Policy, host: HostNotes) -> HostNotes:
    """Return the facts about the host with the links that an apply of the topology makes."""
    if host.links is None or host.bridges is None:
        return host
    made = {link.kind: {each.name for each in policy.topology if each.kind == link.kind} for link in policy.topology}
    links = host.links.union(*made.values())
    return replace(host, links=links, bridges=host.bridges | made.get("bridge", set()))


def errors_of(notes: Notes) -> Notes:
    """Return the notes that are errors."""
    return tuple(note for note in notes if note.error)


def remarks_of(notes: Notes) -> Notes:
    """Return the notes that are no errors."""
    return tuple(note for note in notes if not note.error)


def unprotected(host: HostNotes) -> Notes:
    """Return an error for each configuration file or directory that others than root may write to."""
    return tuple(Note(sentence, error=True) for sentence in host.exposed)


def lacking(policy: Policy, host: HostNotes) -> Notes:
    """Return a note for each feature that needs a program or library that is not installed on this host.

    The note is an error if a network of the policy uses the feature.
    """
    networks = policy.networks.values()
    served = [network for network in networks if network.dhcp]
    filtered = [network for network in networks if module_of(network).filtered()]
    notes = []
    if host.no_dnsmasq:
        notes.append(Note(f"dhcp = true{_names(served)} is not available: {host.no_dnsmasq}", error=bool(served)))
    if host.no_nftables:
        *others, last = (name for name, module in MODES.items() if module.filtered())
        modes = f"modes {', '.join(others)} and {last}{_names(filtered)}"
        notes.append(Note(f"{modes} are not available: {host.no_nftables}", error=bool(filtered)))
    return tuple(notes)


def _errors(policy: Policy, host: HostNotes) -> list[Note]:
    errors = []
    if policy.daemon.devd and host.xl_devd:
        sentence = "daemon.devd is true while xl devd runs, which serves the same backends"
        errors.append(_error(sentence, "daemon", "devd"))
    if host.no_control:
        sentence = f"daemon.control: the socket can't be at {policy.daemon.control}: {host.no_control}"
        errors.append(_error(sentence, "daemon", "control"))
    errors += [note for note in (*unprotected(host), *lacking(policy, host)) if note.error]
    no_bridges = host.links - host.bridges if host.links is not None and host.bridges is not None else frozenset()
    for network in policy.networks.values():
        if network.own:
            errors += _overlaps(network, host)
            if network.bridge in no_bridges:
                sentence = f'network "{network.name}": link "{network.bridge}" exists and is not a bridge'
                errors.append(_error(sentence, "network", network.name, "bridge"))
    return errors


def _error(sentence: str, *key: str | int) -> Note:
    return Note(sentence, error=True, key=key)


def _names(networks: list[Network]) -> str:
    names = ", ".join(f"network.{network.name}" for network in networks)
    return names and f" ({names})"


def _overlaps(network: Network, host: HostNotes) -> list[Note]:
    """Return an error for each address of the host whose subnet overlaps the network's own subnets.

    One of the two subnets would hide the other. Networks of routed guests are exempt: their addresses may lie in an
    uplink's subnet.
    """
    errors = []
    for link, addresses in sorted((host.addresses or {}).items()):
        if link == network.bridge:
            continue
        for address in addresses:
            subnet = network.subnet4 if address.version == 4 else network.subnet6
            if subnet is not None and subnet.overlaps(address.network):
                overlap = f'overlaps {plain(address)}, an address of link "{link}"'
                sentence = f'network "{network.name}": subnet {subnet} {overlap}'
                errors.append(_error(sentence, "network", network.name, "subnets"))
    return errors


def _daemon_notes(policy: Policy, host: HostNotes) -> list[Note]:
    notes = []
    if policy.daemon.mode == "observe":
        sentence = "daemon.mode is observe: xennetd reports what it would do, and changes nothing"
        notes.append(Note(sentence, key=("daemon", "mode")))
    if host.hooks and not policy.daemon.hooks:
        hooks = ", ".join(host.hooks)
        sentence = f"daemon.hooks is false: xennetd does not run these hooks of the stock scripts: {hooks}"
        notes.append(Note(sentence, key=("daemon", "hooks")))
    stock = [name for name in sorted(STOCK_SCRIPTS) if any(matches(pattern, name) for pattern in policy.daemon.scripts)]
    if stock and policy.daemon.mode == "enforce" and not policy.daemon.devd:
        scripts = ", ".join(stock)
        sentence = f"daemon.scripts matches {scripts}: that script and xennetd would both configure a vif that names it"
        notes.append(Note(sentence, key=("daemon", "scripts")))
    if policy.daemon.stand_in:
        sentence = "daemon.stand_in is true, which is for tests only: any link may call itself a guest's"
        notes.append(Note(sentence, key=("daemon", "stand_in")))
    return notes


def _network_notes(policy: Policy, host: HostNotes) -> list[Note]:
    used = {rule.network.name for rule in policy.rules if rule.network is not None}
    return [
        Note(f'network "{network.name}": {remark.sentence}', key=("network", network.name, *remark.setting))
        for network in policy.networks.values()
        for remark in _remarks(network, host, used=network.name in used)
    ]


def _remarks(network: Network, host: HostNotes, *, used: bool) -> Iterator[Remark]:
    if network.uplink is not None and host.links is not None and network.uplink not in host.links:
        yield Remark(f'uplink "{network.uplink}" does not exist now', ("uplink",))
    for subnet in network.subnets:
        if subnet.is_global and subnet.prefixlen < _WIDEST_PUBLIC[subnet.version]:
            sentence = f"subnet {subnet} is so wide that this host and its guests can't reach a part of the internet"
            yield Remark(sentence, ("subnets",))
    domain = network.domain
    if network.dhcp and domain and "." not in domain and domain.lower() not in _NOT_PUBLIC:
        yield Remark(
            f'domain "{domain}" may be a public top-level domain, whose hosts the guests could not find by name: '
            "choose one below internal or home.arpa, or your own",
            ("domain",),
        )
    for i, forward in enumerate(network.forwards):
        if (forward.proto, forward.port) in host.listening:
            yield Remark(
                f"forward of {forward.proto} port {forward.port}: a program of this host listens on this port, and its "
                "clients from outside get to the guest instead",
                ("forward", i),
            )
    yield from module_of(network).remarks(network, host)
    if not used:
        yield Remark("no policy uses it")


def _rule_notes(policy: Policy) -> list[Note]:
    several = [
        Note(
            f'policy "{rule.name}" fixes an address and may match several interfaces: '
            "match a single one by mac, or by devid together with vm or uuid",
            key=("policy", i),
        )
        for i, rule in enumerate(policy.rules)
        if rule.ips and not _matches_one(rule.match)
    ]
    return [*_hidden(policy), *several]


def _matches_one(match: Match) -> bool:
    """Return whether the conditions fit one vif at a time (two during a reboot or a migration)."""

    def exact(pattern: str | None) -> bool:
        return pattern is not None and not _WILD & set(pattern)

    domain = exact(match.vm) or exact(match.uuid) or match.domid is not None
    return exact(match.mac) or (domain and match.devid is not None)


def _hidden(policy: Policy) -> list[Note]:
    """Return a note for each rule that never applies, since an earlier rule has a subset of its conditions.

    `first` maps the names of conditions, and then their values, to the first rule that has just these. A policy uses
    few combinations of names, so a lookup for every combination is fast. Comparing all pairs of rules would take too
    long for a policy with thousands of rules.
    """
    notes = []
    first: dict[tuple[str, ...], dict[tuple[object, ...], int]] = {}
    for i, rule in enumerate(policy.rules):
        given = {name: value for name in _CONDITIONS if (value := getattr(rule.match, name)) is not None}
        earlier = [
            taken
            for names, rules in first.items()
            if given.keys() >= set(names) and (taken := rules.get(tuple(given[name] for name in names))) is not None
        ]
        if earlier:
            name = policy.rules[min(earlier)].name
            sentence = f'policy "{rule.name}" never applies: "{name}" comes first and matches the same vifs'
            notes.append(Note(sentence, key=("policy", i)))
        first.setdefault(tuple(given), {}).setdefault(tuple(given.values()), i)
    return notes
