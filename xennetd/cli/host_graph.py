"""The graph that all pictures of a host's topology draw: what is built on what, with many guests alike folded.

All texts in the graph are printable: what a guest wrote can't command a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xennetd.cli.pages import Values
from xennetd.cli.spans import Span, printable

_SHOWN = 8
"""Guests of one bridge and one state that are shown one by one. If there are more, the others are folded into one."""

_USUAL_MTU = 1500

_STATES = {"connected": "good", "pending": "waiting", "error": "bad", "detaching": "aside", "ignored": "aside"}


@dataclass(frozen=True, slots=True)
class Node:
    """One link of the host, one guest's interface, or several guests' interfaces folded into one node.

    `name` is the link's, or says how many are `folded`. `kind` is `guest` for guests' interfaces, else the link's kind,
    and `vm` is the name of the guest's domain, empty where that is unknown. `states` are words with their styles: of a
    link of the host that works there are none. `facts` are the link's speed, its VLAN, its addresses and the like.
    """

    name: str
    kind: str
    vm: str = ""
    states: tuple[Span, ...] = ()
    facts: tuple[str, ...] = ()
    folded: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes by their keys, and what is built on them. Several roots are the ports of one bond."""

    roots: list[str]
    branches: list[Tree]


@dataclass(frozen=True, slots=True)
class HostGraph:
    """The nodes by their keys, and the edges between them in both directions.

    The key of a link is its name as the kernel has it; that of folded guests is no link's name. `above` has the keys of
    what is built on a node: links of the host first, then guests. `below` has the keys of what a node is built on. Both
    have all nodes, in the order in which the daemon tells of them.
    """

    nodes: dict[str, Node]
    above: dict[str, list[str]]
    below: dict[str, list[str]]

    def trees(self) -> list[Tree]:
        """Return the graph as trees, with each node once: where the order of the nodes leads to it first.

        Guests on no bridge are in none of them: see `unattached`.
        """
        trees: list[Tree] = []
        shown: set[str] = set()
        for key in sorted(self.nodes, key=lambda key: bool(self.below[key])):  # stable: what stands by itself first
            if key not in shown and self.nodes[key].kind != "guest":
                roots = [root for root in self._legs(key) if root not in shown]
                shown.update(roots)
                trees.append(Tree(roots, self._branches(roots, shown)))
        return trees

    def unattached(self) -> list[str]:
        """Return the keys of the guests' interfaces that are on no bridge."""
        return [key for key, node in self.nodes.items() if node.kind == "guest" and not self.below[key]]

    def _branches(self, keys: list[str], shown: set[str]) -> list[Tree]:
        branches: list[Tree] = []
        for upper in (upper for key in keys for upper in self.above[key]):
            if upper not in shown:
                shown.add(upper)
                branches.append(Tree([upper], self._branches([upper], shown)))
        return branches

    def _legs(self, key: str) -> list[str]:
        """Return the NICs that are ports of the same bond as a NIC, itself among them; else the node alone."""
        for upper in self.above[key] if not self.below[key] else ():
            if self.nodes[upper].kind == "bond":
                return [leg for leg in self.below[upper] if not self.below[leg]]
        return [key]


def host_graph(links: Iterable[Values]) -> HostGraph:
    """Return the graph of the links that the daemon tells of (`model.status.LinkStatus`)."""
    own: dict[str, Values] = {}
    guests: list[Values] = []
    for link in links:
        if link["vif"] is None:
            own[link["name"]] = link
        else:
            guests.append(link)
    used = {lower for link in own.values() for lower in link["below"]} | {guest["master"] for guest in guests}
    nodes = {name: _host_link(link, name in used or bool(link["addresses"])) for name, link in own.items()}
    below = {name: [lower for lower in link["below"] if lower in own] for name, link in own.items()}
    of_bridge: dict[str, list[Values]] = {}
    for guest in guests:
        bridge = guest["master"]
        of_bridge.setdefault(bridge if bridge in own else "", []).append(guest)
    for bridge, ports in of_bridge.items():
        mtu = own[bridge]["mtu"] if bridge else _USUAL_MTU
        for key, node in _folded(ports, bridge, mtu).items():
            nodes[key] = node
            below[key] = [bridge] if bridge else []
    above: dict[str, list[str]] = {key: [] for key in nodes}
    for key, lowers in below.items():
        for lower in lowers:
            above[lower].append(key)
    return HostGraph(nodes, above, below)


def _host_link(link: Values, used: bool) -> Node:
    """Return the node of a link of the host. `used` says that something is built on it, or that it has an address."""
    states: tuple[Span, ...] = ()
    if not link["up"]:
        states = (("down", "bad" if used else "aside"),)
    elif not link["carrier"]:
        # A bridge without ports has none, and one whose ports have none shows theirs.
        states = (("no carrier", "waiting" if link["kind"] == "bridge" else "bad"),)
    facts = [link["what"], *_speed(link), *link["addresses"], *_mtu(link, _USUAL_MTU)]
    return Node(
        name=printable(link["name"]),
        kind=printable(link["kind"]),
        states=states,
        facts=tuple(printable(fact) for fact in facts if fact),
    )


def _folded(guests: list[Values], bridge: str, usual_mtu: int) -> dict[str, Node]:
    """Return the nodes of the guests on one bridge. Of many with the same states only the first have one each."""
    alike: dict[tuple[Span, ...], list[Values]] = {}
    for guest in guests:
        alike.setdefault(_states(guest), []).append(guest)
    shown = {guest["name"] for same in alike.values() for guest in (same[:_SHOWN] if len(same) > _SHOWN + 1 else same)}
    nodes = {guest["name"]: _guest(guest, usual_mtu) for guest in guests if guest["name"] in shown}
    for states, same in alike.items():
        if rest := len([guest for guest in same if guest["name"] not in shown]):
            key = "/".join((bridge, *(word for word, _ in states)))  # The kernel allows no slash in a link's name.
            nodes[key] = Node(f"and {rest} more", "guest", states=states, folded=rest)
    return nodes


def _guest(guest: Values, usual_mtu: int) -> Node:
    facts = (*guest["addresses"], *_mtu(guest, usual_mtu))
    return Node(
        name=printable(guest["name"]),
        kind="guest",
        vm=printable(guest["vm"] or ""),
        states=_states(guest),
        facts=tuple(map(printable, facts)),
    )


def _states(guest: Values) -> tuple[Span, ...]:
    """Return the state of a guest's interface, and whether a connected one carries nothing.

    Without carrier the guest has not connected to its interface (yet). That is no fault of the host.
    """
    state = guest["state"]
    found = (printable(state), _STATES.get(state, ""))
    if state != "connected" or (guest["up"] and guest["carrier"]):
        return (found,)
    return (found, ("no carrier", "waiting") if guest["up"] else ("down", "bad"))


def _mtu(link: Values, usual: int) -> list[str]:
    return [f"mtu {link['mtu']}"] if link["mtu"] != usual else []


def _speed(link: Values) -> list[str]:
    """Return the speed in its largest unit: `100 Mbit/s`, `2.5 Gbit/s`."""
    speed = link.get("speed")  # A daemon that was not restarted after an upgrade does not tell it.
    if speed is None:
        return []
    return [f"{speed / 1000:g} Gbit/s" if speed >= 1000 else f"{speed} Mbit/s"]
