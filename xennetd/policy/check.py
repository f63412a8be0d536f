"""What `check` has to say about a policy that is valid: what can't work on this host, and what may not be as meant."""

from __future__ import annotations

from dataclasses import dataclass, fields

from xennetd.policy.config import Match, Policy
from xennetd.policy.pattern import matches

_STOCK_SCRIPTS = ("vif-bridge", "vif-nat", "vif-openvswitch", "vif-route")
_CONDITIONS = tuple(field.name for field in fields(Match))


@dataclass(frozen=True, slots=True)
class HostNotes:
    """What was found on the host. `hooks` are the executable `vif-post.d/*.hook` files; `bridges` None: not known."""

    hooks: tuple[str, ...] = ()
    xl_devd: bool = False
    bridges: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence. An `error` must be put right before the daemon can serve this policy."""

    sentence: str
    error: bool = False


Notes = tuple[Note, ...]


def check(policy: Policy, host: HostNotes) -> Notes:
    """Return what an administrator should know, errors first."""
    return (*_errors(policy, host), *_daemon_notes(policy, host), *_network_notes(policy, host), *_rule_notes(policy))


def _errors(policy: Policy, host: HostNotes) -> list[Note]:
    if policy.daemon.devd and host.xl_devd:
        return [Note("daemon.devd is true while xl devd runs, which serves the same backends", error=True)]
    return []


def _daemon_notes(policy: Policy, host: HostNotes) -> list[Note]:
    notes = []
    if policy.daemon.mode == "observe":
        notes.append(Note("daemon.mode is observe: nothing is configured, only what would be done is reported"))
    if host.hooks and not policy.daemon.hooks:
        hooks = ", ".join(host.hooks)
        notes.append(Note(f"daemon.hooks is false: these hooks, which the stock scripts run, are not run: {hooks}"))
    stock = [name for name in _STOCK_SCRIPTS if any(matches(pattern, name) for pattern in policy.daemon.scripts)]
    if stock and policy.daemon.mode == "enforce" and not policy.daemon.devd:
        scripts = ", ".join(stock)
        notes.append(
            Note(f"daemon.scripts takes in {scripts}: that script and xennetd would both configure a vif that names it")
        )
    if policy.daemon.stand_in:
        notes.append(Note("daemon.stand_in is true, which is for tests only: any link may call itself a guest's"))
    return notes


def _network_notes(policy: Policy, host: HostNotes) -> list[Note]:
    notes = []
    used = {rule.network.name for rule in policy.rules if rule.network is not None}
    for network in policy.networks.values():
        if host.bridges is not None and network.bridge not in host.bridges:
            notes.append(Note(f'network "{network.name}": bridge "{network.bridge}" does not exist now'))
        if network.name not in used:
            notes.append(Note(f'network "{network.name}": no policy leads to it'))
    return notes


def _rule_notes(policy: Policy) -> list[Note]:
    """Find rules all of whose vifs an earlier rule takes: one whose conditions are among theirs.

    The first rule with each set of conditions is found by which conditions these are, of which a policy has few
    combinations, and then by their values: comparing all rules with all would hold up a host with thousands.
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
            notes.append(Note(f'policy "{rule.name}" never decides: "{name}" before it matches the same vifs'))
        first.setdefault(tuple(given), {}).setdefault(tuple(given.values()), i)
    return notes
