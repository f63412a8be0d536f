"""From one `[[policy]]` table to a rule. The rule's network is still a name: it may stand in a file read later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xennetd.config.document import Place
from xennetd.config.problem import Problem
from xennetd.config.schema import MATCH, RULE, read_table
from xennetd.model.configuration import Match
from xennetd.model.ip import IPAddress


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A rule as it was read, and its place. `network` is a name; it is not known yet whether the network exists."""

    place: Place
    name: str
    match: Match
    network: str | None
    deny: str | None
    ips: tuple[IPAddress, ...]
    stable_mac: bool
    flags: tuple[tuple[str, bool], ...] = ()


def read_rule(place: Place, default_name: str, table: dict[str, Any], problems: list[Problem]) -> RuleDraft:
    """Return the rule that `table` describes. Faulty values are added to `problems` and left out."""
    values = read_table(place, table, RULE, problems)
    match = read_table(place / "match", values.get("match", {}), MATCH, problems)
    for key in ("uuid", "mac"):
        if key in match:
            match[key] = match[key].lower()
    if ("network" in table) == ("deny" in table):
        fault = "has both network and deny" if "deny" in table else "lacks network or deny"
        problems.append(place.problem(f"{fault}; a policy needs exactly one of them"))
    elif "deny" in table:
        for key in ("ip", "mac", *(key for key, field in RULE.items() if field.port_flag)):
            if key in table:
                problems.append((place / key).problem("not with deny; this key needs network"))
    return RuleDraft(
        place,
        values.get("name", default_name),
        Match(**match),
        values.get("network"),
        values.get("deny"),
        values.get("ip", ()),
        stable_mac="mac" in values,
        flags=tuple((RULE[key].port_flag, value) for key, value in values.items() if RULE[key].port_flag),
    )
