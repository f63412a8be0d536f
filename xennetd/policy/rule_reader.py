"""From one `[[policy]]` table to a rule. The rule's network is still a name: it may stand in a file read later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xennetd.config.document import Place
from xennetd.config.problem import Problem
from xennetd.config.schema import MATCH, RULE, read_table
from xennetd.model.configuration import Match, Network, Rule
from xennetd.model.value import replace

_OF_EVERY_RULE = ("name", "match", "network", "deny")
"""The keys of a rule with `deny`, and `network`. All other keys say something of a guest that gets a network."""


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A rule as it was read, and its place. `network` is a name; it is not known yet whether the network exists."""

    place: Place
    network: str | None
    rule: Rule

    def complete(self, network: Network | None) -> Rule:
        """Return the rule with its network."""
        return replace(self.rule, network=network)


def read_rule(place: Place, default_name: str, table: dict[str, Any], problems: list[Problem]) -> RuleDraft:
    """Return the rule that `table` describes. Faulty values are added to `problems` and left out."""
    values = {"name": default_name, **read_table(place, table, RULE, problems)}
    match = read_table(place / "match", values.pop("match", {}), MATCH, problems)
    for key in ("uuid", "mac"):
        if key in match:
            match[key] = match[key].lower()
    if ("network" in table) == ("deny" in table):
        fault = "has both network and deny" if "deny" in table else "lacks network or deny"
        problems.append(place.problem(f"{fault}; a policy needs exactly one of them"))
    elif "deny" in table:
        for key in RULE:
            if key in table and key not in _OF_EVERY_RULE:
                problems.append((place / key).problem("not with deny; this key needs network"))
    network = values.pop("network", None)
    flags = tuple((RULE[key].port_flag, value) for key, value in values.items() if RULE[key].port_flag)
    attributes = {RULE[key].attribute or key: value for key, value in values.items() if not RULE[key].port_flag}
    return RuleDraft(place, network, Rule(match=Match(**match), flags=flags, **attributes))
