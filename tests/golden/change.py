"""A change of a configuration: what it says then, and which guests the change is about.

Whom a change is about is said here by rules of our own, not by the code that is under test. CONCERNS has them: a change
of a network is about its guests, a change of a policy about the guests that it applies to, and a key that is about the
host alone is about no guest.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from tests.golden.examples import Example, Guest


class Part(Flag):
    """What a change of a guest may touch: its link, or what the host has for it (a DHCP host, a forward, a proxy)."""

    NOTHING = 0
    LINK = auto()
    HOST = auto()
    BOTH = LINK | HOST


NOTHING, LINK, HOST, BOTH = Part.NOTHING, Part.LINK, Part.HOST, Part.BOTH

_OF_A_PORT: Mapping[str, Part] = {
    "mode": BOTH, "bridge": BOTH, "subnets": HOST, "uplink": NOTHING, "dhcp": HOST, "ra": HOST, "domain": HOST,
    "nat66": NOTHING, "nptv6": NOTHING, "forward": HOST, "tx_checksum": HOST,
}  # fmt: skip
_OF_A_ROUTED: Mapping[str, Part] = {
    "mode": BOTH, "subnets": BOTH, "uplink": BOTH, "gateway": LINK, "proxy": HOST, "dhcp": BOTH, "ra": BOTH,
    "domain": HOST, "tx_checksum": HOST,
}  # fmt: skip
CONCERNS: Mapping[str, Mapping[str, Part]] = {
    "bridge": _OF_A_PORT, "nat": _OF_A_PORT, "isolated": _OF_A_PORT, "route": _OF_A_ROUTED,
}  # fmt: skip
"""What a key of a network is about, by the mode of the network: these parts of its guests."""

CONCERNS_OF_POLICY: Mapping[str, Part] = {
    "name": NOTHING, "match": BOTH, "network": BOTH, "deny": BOTH, "ip": BOTH, "mac": NOTHING, "isolated": LINK,
    "vlan": NOTHING, "tx_checksum": HOST,
}  # fmt: skip
"""What a key of a policy is about. A running guest keeps its MAC; none has `vlan=`."""

Path = tuple[str | int, ...]
Concerned = Mapping[Guest, Part]


@dataclass(frozen=True, slots=True)
class Change:
    """What is changed, in words, the whole configuration then, the keys that it changes, and the guests it is about."""

    title: str
    text: str
    paths: tuple[Path, ...]
    concerned: Concerned


class Book:
    """Collects the changes of an example. A value None takes a key away."""

    def __init__(self, example: Example) -> None:
        self.example = example
        self.data = tomllib.loads(example.text)
        self.changes: list[Change] = []

    def network(self, name: str, key: str, *values: object, only: Collection[str] = ()) -> None:
        """Give a key of a network other values, one by one. Each is about `only` these guests of it, else about all."""
        for value in values:
            self.networks(name, {key: value}, only=only)

    def networks(
        self,
        name: str,
        edits: Mapping[str, object],
        *,
        only: Collection[str] = (),
        ips: Mapping[str, Sequence[str] | None] | None = None,
    ) -> None:
        """Change several keys of a network at once, where one alone would not be valid, and the `ips` of policies."""
        concerns = CONCERNS[self.data["network"][name]["mode"]]
        part = NOTHING
        for key in edits:
            part |= concerns.get(key, NOTHING)
        guests = [each for each in self.of_network(name) if not only or each.title in only]
        paths: dict[Path, object] = {("network", name, key): value for key, value in edits.items()}
        paths |= {("policy", self._number(rule), "ip"): value for rule, value in (ips or {}).items()}
        self._add(paths, dict.fromkeys(guests, part))

    def rename(self, name: str, new: str) -> None:
        """Give a network another name, and nothing else: bridge and domain stay as they are. That is about nobody."""
        table = self.data["network"][name]
        kept: dict[str, object] = {}
        if table["mode"] in ("nat", "isolated"):
            kept["bridge"] = table.get("bridge", f"xn-{name}")
        if table.get("dhcp"):
            kept["domain"] = table.get("domain", f"{name}.internal")
        self._rename(name, new, kept, {})

    def rename_with_what_follows(self, name: str, new: str) -> None:
        """Give a network another name, from which a bridge and a domain follow that are not named."""
        self._rename(name, new, {}, dict.fromkeys(self.of_network(name), BOTH))

    def remove_network(self, name: str) -> None:
        """Take a network away, and the policies that lead to it."""
        data = deepcopy(self.data)
        del data["network"][name]
        data["policy"] = [rule for rule in data["policy"] if rule.get("network") != name]
        title = f"network.{name} and its policies are removed"
        self._put(title, data, (("network", name),), dict.fromkeys(self.of_network(name), BOTH))

    def policy(self, name: str, key: str, *values: object, also: Collection[str] = ()) -> None:
        """Give a key (`match.vm`) of a policy other values, one by one. Each is about its guests, and `also` these."""
        for value in values:
            edits: dict[Path, object] = {("policy", self._number(name), *key.split(".")): value}
            self._add(edits, self._of_policy(name, CONCERNS_OF_POLICY[key.partition(".")[0]], also))

    def outcome(self, name: str, **outcome: str) -> None:
        """Have a policy deny what it let in, or let in what it denied."""
        number = self._number(name)
        said = {key: outcome.get(key) for key in self.data["policy"][number] if key not in ("name", "match")}
        edits: dict[Path, object] = {("policy", number, key): value for key, value in {**said, **outcome}.items()}
        self._add(edits, self._of_policy(name, BOTH, ()))

    def remove_policy(self, name: str, *, also: Collection[str] = ()) -> None:
        """Take a policy away."""
        data = deepcopy(self.data)
        number = self._number(name)
        del data["policy"][number]
        self._put(f'policy "{name}" is removed', data, (("policy", number),), self._of_policy(name, BOTH, also))

    def reverse(self, *concerned: str) -> None:
        """Ask the policies from bottom to top."""
        data = deepcopy(self.data)
        data["policy"].reverse()
        guests = {each: BOTH for each in self.example.guests if each.title in concerned}
        self._put("the policies are asked from bottom to top", data, (), guests)

    def finish(self) -> tuple[Change, ...]:
        """Return all changes: those that were asked for, other names of the policies, and those of `[daemon]`."""
        for rule in self.data["policy"]:
            self.policy(rule["name"], "name", "another name", None)
        self._daemon()
        return tuple(self.changes)

    def of_network(self, name: str) -> list[Guest]:
        """Return the guests of a network."""
        return [guest for guest in self.example.guests if guest.network == name]

    def _of_policy(self, name: str, part: Part, also: Collection[str]) -> Concerned:
        return {each: part for each in self.example.guests if each.policy == name or each.title in also}

    def _daemon(self) -> None:
        """Change the keys of `[daemon]` that a reload may change. With other `scripts` no guest is ours any more."""
        self._add({("daemon", "mode"): "observe"}, {})
        self._add({("daemon", "hooks"): True}, {})
        self._add({("daemon", "scripts"): ["vif-other*"]}, dict.fromkeys(self.example.guests, HOST))

    def _number(self, name: str) -> int:
        return next(i for i, rule in enumerate(self.data["policy"]) if rule["name"] == name)

    def _rename(self, name: str, new: str, kept: Mapping[str, object], concerned: Concerned) -> None:
        data = deepcopy(self.data)
        data["network"] = {new if key == name else key: table for key, table in data["network"].items()}
        data["network"][new].update(kept)
        for rule in data["policy"]:
            if rule.get("network") == name:
                rule["network"] = new
        stays = "".join(f", {key} = {toml(value)}" for key, value in kept.items())
        self._put(f"network.{name} is called {new}{stays}", data, (("network", name),), concerned)

    def _add(self, edits: Mapping[Path, object], concerned: Concerned) -> None:
        data = deepcopy(self.data)
        said = []
        for path, value in edits.items():
            said.append(f"{self._words(path)} {_becomes(_edit(data, path, value), value)}")
        self._put("\n   ".join(said), data, tuple(edits), concerned)

    def _words(self, path: Path) -> str:
        if path[0] != "policy" or not isinstance(path[1], int):
            return ".".join(map(str, path))
        return f'policy "{self.data["policy"][path[1]]["name"]}": {".".join(map(str, path[2:]))}'

    def _put(self, title: str, data: dict[str, Any], paths: Sequence[Path], concerned: Concerned) -> None:
        assert data != self.data, f"{title}: that is no change"
        text = "".join(f"{line}\n" for line in _document(data))
        self.changes.append(Change(title, text, tuple(paths), concerned))


def paths_of(data: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the path of each key of a configuration."""
    for name, table in data.get("network", {}).items():
        yield from (("network", name, key) for key in table)
    for number, rule in enumerate(data.get("policy", [])):
        yield from (("policy", number, key) for key in rule if key != "match")
        yield from (("policy", number, "match", key) for key in rule.get("match", {}))
    yield from (("daemon", key) for key in data.get("daemon", {}))


def toml(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def _becomes(before: object, value: object) -> str:
    was = f" (it was {toml(before)})" if before is not None else ""
    return f"is removed{was}" if value is None else f"= {toml(value)}{was}"


def _edit(data: Any, path: Path, value: object) -> Any:
    """Give a key another value, or take it away. Returns what it was, None if it was not there."""
    for step in path[:-1]:
        data = data[step] if isinstance(step, int) else data.setdefault(step, {})
    before = data.pop(path[-1], None)
    if value is not None:
        data[path[-1]] = value
    return before


def _document(data: Mapping[str, Any]) -> Iterator[str]:
    tables = {"[daemon]": data.get("daemon", {})}
    tables |= {f"[network.{name}]": table for name, table in data.get("network", {}).items()}
    for header, table in (*tables.items(), *(("[[policy]]", rule) for rule in data.get("policy", []))):
        yield header
        yield from (f"{key} = {toml(value)}" for key, value in table.items())
