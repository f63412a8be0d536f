"""Configuration text to Policy: every file is read to its end, and all problems of all files are reported at once.

How files merge: a key of `[daemon]` and a network's name may each be given once in all files, whichever; rules are
asked in the order of the files, and within a file from top to bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xennetd.model.attachment import Mode
from xennetd.model.text import visible
from xennetd.policy.config import DaemonConfig, Match, Network, Policy, Rule
from xennetd.policy.document import Document, Place, parse
from xennetd.policy.problem import Problem, Problems, shown
from xennetd.policy.schema import DAEMON, MATCH, NETWORK, NETWORK_NAME, RULE, Fields

_SECTIONS = ("daemon", "network", "policy")


def load(sources: Sequence[tuple[str, bytes]], problems: Problems = ()) -> Policy | Problems:
    """Return the policy that `sources` (file name and content, in order) make up, or all that is wrong with them.

    `problems` are those of files that could not be read: they are reported along, and what may be due to them is not.
    """
    found = list(problems)
    documents = []
    for file, data in sources:
        match parse(file, data):
            case Document() as document:
                documents.append(document)
            case Problem() as problem:
                found.append(problem)
    merged = _Merged(found, complete=not found)
    for document in documents:
        merged.add(document)
    policy = merged.policy(tuple(file for file, _ in sources))
    if not found:
        return policy
    order = {file: i for i, (file, _) in enumerate(sources)}
    return tuple(sorted(found, key=lambda problem: (order.get(problem.file, -1), problem.line or 0)))


@dataclass(frozen=True, slots=True)
class _Draft:
    """A rule whose network is still a name."""

    place: Place
    name: str
    match: Match
    network: str | None
    deny: str | None


class _Merged:
    """What all files say together. Faulty values are left out after they were reported."""

    def __init__(self, problems: list[Problem], *, complete: bool) -> None:
        self.problems = problems
        self.complete = complete
        self.daemon: dict[str, Any] = {}
        self.networks: dict[str, Network] = {}
        self.drafts: list[_Draft] = []
        self.daemon_places: dict[str, Place] = {}
        self.network_places: dict[str, Place] = {}
        self.rule_places: dict[str, Place] = {}

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
                case _:
                    self.problems.append(place.problem("unknown section", allowed=_SECTIONS, like=section))

    def table(self, place: Place, value: object, header: str) -> dict[str, Any] | None:
        """Return `value` if it is the table it should be, else report that."""
        if isinstance(value, dict):
            return value
        self.problems.append(place.problem(f"must be written as {header}", found=shown(value)))
        return None

    def values(self, place: Place, table: dict[str, Any], known: Fields) -> dict[str, Any]:
        """Return the valid values of `table`, and report the others and unknown keys."""
        values = {}
        for key, value in table.items():
            if key not in known:
                self.problems.append((place / key).problem("unknown key", allowed=tuple(known), like=key))
            elif (read := known[key].read(place / key, value, self.problems)) is not None:
                values[key] = read
        return values

    def first(self, places: dict[str, Place], name: str, place: Place) -> bool:
        """Return whether `name` is given for the first time; report it otherwise."""
        earlier = places.setdefault(name, place)
        if earlier is not place:
            self.problems.append(place.problem(f"given already at {earlier}"))
        return earlier is place

    def add_daemon(self, place: Place, value: object) -> None:
        values = self.values(place, self.table(place, value, "[daemon]") or {}, DAEMON)
        for key, read in values.items():
            if self.first(self.daemon_places, key, place / key):
                self.daemon[key] = read

    def add_networks(self, place: Place, value: object) -> None:
        for name, settings in (self.table(place, value, "[network.NAME]") or {}).items():
            self.add_network(place / name, name, settings)

    def add_network(self, place: Place, name: str, value: object) -> None:
        named = NETWORK_NAME.read(place, name, self.problems) is not None
        first = self.first(self.network_places, name, place)
        table = self.table(place, value, f"[{place.key}]")
        if table is None:
            return
        values = self.values(place, table, NETWORK)
        for key, field in NETWORK.items():
            if key not in table:
                self.problems.append((place / key).problem("missing", allowed=field.allowed))
        if named and first and values.keys() == NETWORK.keys():
            self.networks[name] = Network(name, Mode(values["mode"]), values["bridge"])

    def add_rules(self, place: Place, value: object) -> None:
        if not isinstance(value, list):
            self.problems.append(place.problem("must be written as [[policy]]", found=shown(value)))
            return
        for i, settings in enumerate(value):
            table = self.table(place / i, settings, "[[policy]]")
            if table is not None:
                self.add_rule(place / i, table)

    def add_rule(self, place: Place, table: dict[str, Any]) -> None:
        values = self.values(place, table, RULE)
        match = self.values(place / "match", values.get("match", {}), MATCH)
        for key in ("uuid", "mac"):
            if key in match:
                match[key] = match[key].lower()
        if ("network" in table) == ("deny" in table):
            wrong = "has both network and deny" if "deny" in table else "lacks network or deny"
            self.problems.append(place.problem(f"{wrong}; a policy needs exactly one of them"))
        name = values.get("name", f"policy {len(self.drafts) + 1}")
        self.first(self.rule_places, name, place / "name")
        self.drafts.append(_Draft(place, name, Match(**match), values.get("network"), values.get("deny")))

    def policy(self, files: tuple[str, ...]) -> Policy:
        """Return the whole. It is fit for use only if no problem has been reported."""
        daemon = DaemonConfig(**self.daemon)
        for draft in self.drafts:
            self.check_network(draft)
            if daemon.devd:
                self.check_readable(draft)
        rules = tuple(
            Rule(draft.name, draft.match, self.networks.get(draft.network or ""), draft.deny) for draft in self.drafts
        )
        return Policy(daemon, self.networks, rules, files)

    def check_network(self, draft: _Draft) -> None:
        if draft.network is None or draft.network in self.network_places or not self.complete:
            return
        names = tuple(visible(name) for name in sorted(self.network_places))
        text = "no such network" if names else "no network is defined"
        place = draft.place / "network"
        self.problems.append(place.problem(text, found=shown(draft.network), allowed=names, like=draft.network))

    def check_readable(self, draft: _Draft) -> None:
        for key in ("vm", "uuid"):
            if getattr(draft.match, key) is not None:
                place = draft.place / "match" / key
                self.problems.append(place.problem("can't be read in a driver domain (daemon.devd is true)"))
