"""From configuration text to Policy. Every file is read to its end, and all problems of all files are reported at once.

Files merge as follows. A key of `[daemon]` may be given in one file only, and so may a network and a link. Rules
are evaluated in the order of the files, and within a file from top to bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xennetd.config.document import Document, Place, parse
from xennetd.config.problem import Problem, Problems, shown
from xennetd.config.schema import DAEMON, RULE, read_table
from xennetd.config.topology_schema import SECTIONS as TOPOLOGY
from xennetd.model.configuration import DaemonConfig, Policy
from xennetd.model.text import visible
from xennetd.model.topology import Topology
from xennetd.policy.clashes import check_addresses, check_networks
from xennetd.policy.modes import MODES
from xennetd.policy.network_needs import compile_ruleset
from xennetd.policy.network_reader import NetworkDraft, read_network
from xennetd.policy.rule_reader import RuleDraft, read_rule
from xennetd.policy.topology_checks import check_topology
from xennetd.policy.topology_reader import LinkDraft, read_link

_SECTIONS = ("daemon", "network", "policy", *TOPOLOGY)


def load(sources: Sequence[tuple[str, bytes]], problems: Problems = ()) -> Policy | Problems:
    """Return the policy that `sources` (file name and content, in order) make up, or all their problems.

    `problems` are those of files that could not be read. They are reported too; problems that may only result from them
    are not.
    """
    reported = list(problems)
    documents = []
    for file, data in sources:
        match parse(file, data):
            case Document() as document:
                documents.append(document)
            case Problem() as problem:
                reported.append(problem)
    merged = _Merged(reported, complete=not reported)
    for document in documents:
        merged.add(document)
    policy = merged.policy(tuple(file for file, _ in sources))
    if not reported:
        return policy
    order = {file: i for i, (file, _) in enumerate(sources)}
    return tuple(sorted(reported, key=lambda problem: (order.get(problem.file, -1), problem.line or 0)))


class _Merged:
    """The merged content of all files. Faulty values are reported and then left out.

    `complete` is False if a file is missing, so that a network may be defined in it.
    """

    def __init__(self, problems: list[Problem], *, complete: bool) -> None:
        self.problems = problems
        self.complete = complete
        self.daemon: dict[str, Any] = {}
        self.networks: dict[str, NetworkDraft] = {}
        self.rules: list[RuleDraft] = []
        self.daemon_places: dict[str, Place] = {}
        self.network_places: dict[str, Place] = {}
        self.rule_places: dict[str, Place] = {}
        self.links: dict[str, LinkDraft] = {}
        self.link_places: dict[str, Place] = {}

    def add(self, document: Document) -> None:
        for section, value in document.data.items():
            place = document.root / section
            match section:
                case "daemon":
                    self.add_daemon(place, value)
                case "network":
                    self.add_networks(place, value)
                case "policy":
                    self.add_rules(place, value)
                case _ if section in TOPOLOGY:
                    self.add_links(place, section, value)
                case _:
                    self.problems.append(place.problem("unknown section", allowed=_SECTIONS, like=section))

    def table(self, place: Place, value: object, header: str) -> dict[str, Any] | None:
        """Return `value` if it is a table; else report that it must be written as `header`, and return None."""
        if isinstance(value, dict):
            return value
        self.problems.append(place.problem(f"must be written as {header}", found=shown(value)))
        return None

    def first(self, places: dict[str, Place], name: str, place: Place) -> bool:
        """Return whether `name` is given for the first time; if not, report it at `place`."""
        earlier = places.setdefault(name, place)
        if earlier is not place:
            self.problems.append(place.problem(f"given already at {earlier}"))
        return earlier is place

    def add_daemon(self, place: Place, value: object) -> None:
        values = read_table(place, self.table(place, value, "[daemon]") or {}, DAEMON, self.problems)
        for key, read in values.items():
            if self.first(self.daemon_places, key, place / key):
                self.daemon[key] = read

    def add_networks(self, place: Place, value: object) -> None:
        for name, settings in (self.table(place, value, "[network.NAME]") or {}).items():
            self.add_network(place / name, name, settings)

    def add_network(self, place: Place, name: str, value: object) -> None:
        first = self.first(self.network_places, name, place)
        table = self.table(place, value, f"[{place.key}]")
        draft = read_network(place, name, table, MODES, self.problems) if table is not None else None
        if draft is not None and first:
            self.networks[name] = draft

    def add_links(self, place: Place, kind: str, value: object) -> None:
        for name, settings in (self.table(place, value, f"[{kind}.NAME]") or {}).items():
            first = self.first(self.link_places, name, place / name)
            table = self.table(place / name, settings, f"[{(place / name).key}]")
            if table is not None and (draft := read_link(place / name, kind, name, table, self.problems)) and first:
                self.links[name] = draft

    def add_rules(self, place: Place, value: object) -> None:
        if not isinstance(value, list):
            self.problems.append(place.problem("must be written as [[policy]]", found=shown(value)))
            return
        for i, settings in enumerate(value):
            table = self.table(place / i, settings, "[[policy]]")
            if table is not None:
                self.add_rule(place / i, table)

    def add_rule(self, place: Place, table: dict[str, Any]) -> None:
        draft = read_rule(place, f"policy {len(self.rules) + 1}", table, self.problems)
        self.first(self.rule_places, draft.rule.name, place / "name")
        self.rules.append(draft)

    def policy(self, files: tuple[str, ...]) -> Policy:
        """Return the policy. The caller must discard it if a problem has been reported."""
        daemon = DaemonConfig(**self.daemon)
        check_networks(tuple(self.networks.values()), self.problems)
        check_topology(self.links, tuple(self.networks.values()), self.problems)
        check_addresses(self.rules, self.networks, self.problems)
        for draft in self.rules:
            self.check_network(draft)
            self.check_flags(draft)
        if daemon.devd:
            self.check_readable()
        networks = {name: draft.network for name, draft in self.networks.items()}
        rules = tuple(draft.complete(networks.get(draft.network or "")) for draft in self.rules)
        filtered = tuple(networks.values()) if not self.problems else ()
        port_flags = frozenset(flag for rule in rules for flag, _ in rule.flags)
        topology = Topology(tuple(draft.link for draft in self.links.values()))
        return Policy(daemon, networks, rules, files, compile_ruleset(filtered), port_flags, topology)

    def check_network(self, draft: RuleDraft) -> None:
        if draft.network is None or draft.network in self.network_places or not self.complete:
            return
        names = tuple(visible(name) for name in sorted(self.network_places))
        text = "no such network" if names else "no network is defined"
        place = draft.place / "network"
        self.problems.append(place.problem(text, found=shown(draft.network), allowed=names, like=draft.network))

    def check_flags(self, draft: RuleDraft) -> None:
        """Report a bridge port's flag in a rule whose guests are routed."""
        network = self.networks.get(draft.network or "")
        if network is None or not network.network.mode.routed:
            return
        for key, field in RULE.items():
            if field.port_flag in dict(draft.rule.flags):
                text = f"not for a network of mode {network.network.mode}: its guests are not ports of a bridge"
                self.problems.append((draft.place / key).problem(text))

    def check_readable(self) -> None:
        """Report settings that depend on the name or the UUID of a domain, which a driver domain can't read."""
        places = [
            draft.place / "match" / key
            for draft in self.rules
            for key in ("vm", "uuid")
            if getattr(draft.rule.match, key) is not None
        ]
        for place in places:
            self.problems.append(place.problem("can't be read in a driver domain (daemon.devd is true)"))
        for draft in self.rules:
            if draft.rule.stable_mac:
                text = "needs the domain's UUID, which can't be read in a driver domain (daemon.devd is true)"
                self.problems.append((draft.place / "mac").problem(text))
        for network in self.networks.values():
            for place, forward in network.forwards:
                if isinstance(forward.to, str):
                    text = "a VM's name can't be read in a driver domain (daemon.devd is true); give its address"
                    self.problems.append((place / "to").problem(text, found=shown(forward.to)))
