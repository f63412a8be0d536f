"""Where the boxes of a host's graph are in a drawing, and how the connectors between them run. Lengths are in pixels.

Nodes are in columns by their kind. A connector runs between the columns, and straight through a column on its way,
where room is kept for it: so it meets no box. The order from top to bottom is that of the graph's trees. A box is
beside the middle of what is built on it, as far as the others in its column allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import NamedTuple

from xennetd.cli.host_graph import HostGraph, Tree

_COLUMNS = {"bond": 1, "vlan": 2, "bridge": 3, "guest": 4}
"""The first column that a node of a kind may be in; 0 for all other kinds."""

_BESIDE = 56
"""Between two columns."""

_APART, _TOGETHER = 24, 8
"""Between two boxes in a column: usually, and where both are built on the same, or the same is built on both."""

_WAYPOINT = 2
"""The height of the room for a connector that runs through a column."""

_SWEEPS = 20
"""How often all columns are placed anew, rightwards and leftwards."""


class Rectangle(NamedTuple):
    """A box in the drawing, by its upper left corner and its size."""

    x: int
    y: int
    width: int
    height: int


class Point(NamedTuple):
    """An end or a corner of a connector."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all nodes by their keys, the connectors, and the size of the whole.

    A connector crosses one gap between two columns, or one column. It has horizontal and vertical parts, in turn.
    """

    places: dict[str, Rectangle]
    connectors: list[tuple[Point, ...]]
    width: int
    height: int


@dataclass(slots=True, eq=False)
class _Slot:
    """The room in a column for a box, or for a connector that runs through the column. `y` is the height of its middle.

    `rank` is its order from top to bottom. `left` and `right` are the slots in the columns beside that it is connected
    with.
    """

    column: int
    height: int
    rank: int
    left: list[_Slot] = field(default_factory=list)
    right: list[_Slot] = field(default_factory=list)
    y: float = 0


def layout(graph: HostGraph, sizes: Mapping[str, tuple[int, int]]) -> Layout:
    """Return the layout for boxes of these widths and heights. A box is as wide as the widest in its column."""
    columns = _columns(graph)
    ranks, main = _ranks(graph)
    boxes = {key: _Slot(columns[key], sizes[key][1], ranks[key]) for key in graph.nodes}
    waypoints: dict[tuple[str, str, int], _Slot] = {}
    for key, lowers in graph.below.items():
        for lower in lowers:
            # The guests of a bridge are reached by one connector, as far as it runs through columns.
            target = "" if graph.nodes[key].kind == "guest" else key
            rank = ranks[key] if lower in main.get(key, ()) else ranks[lower]
            last = boxes[lower]
            for column in range(columns[lower] + 1, columns[key]):
                waypoint = waypoints.setdefault((lower, target, column), _Slot(column, _WAYPOINT, rank))
                last = _connected(last, waypoint)
            if columns[lower] < columns[key]:  # else they are in a circle
                _connected(last, boxes[key])
    filled: list[list[_Slot]] = [[] for _ in set(columns.values())]
    for slot in (*boxes.values(), *waypoints.values()):
        filled[slot.column].append(slot)
    for slots in filled:
        slots.sort(key=lambda slot: slot.rank)
    _place(filled)
    widths = [max((sizes[key][0] for key in boxes if columns[key] == i), default=0) for i in range(len(filled))]
    return _drawn(boxes, filled, widths)


def _connected(left: _Slot, right: _Slot) -> _Slot:
    """Connect two slots, once, and return the right one."""
    if right not in left.right:
        left.right.append(right)
        right.left.append(left)
    return right


def _columns(graph: HostGraph) -> dict[str, int]:
    """Return the column of each node. A node is right of what it is built on, and all guests are in the last column."""
    found: dict[str, int] = {}

    def column(key: str) -> int:
        if key not in found:
            found[key] = _COLUMNS.get(graph.nodes[key].kind, 0)  # It stays so in a circle.
            found[key] = max(found[key], *(column(lower) + 1 for lower in graph.below[key]), 0)
        return found[key]

    last = max(map(column, graph.nodes), default=0)
    found |= {key: last for key, node in graph.nodes.items() if node.kind == "guest"}
    used = sorted(set(found.values()))
    return {key: used.index(each) for key, each in found.items()}


def _ranks(graph: HostGraph) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return the order of the nodes from top to bottom, and for each node the roots of the tree that has it above."""
    ranks: dict[str, int] = {}
    main: dict[str, list[str]] = {}

    def enter(trees: Sequence[Tree]) -> None:
        for tree in trees:
            for root in tree.roots:
                ranks[root] = len(ranks)
            main.update({branch.roots[0]: tree.roots for branch in tree.branches})
            enter(tree.branches)

    trees = sorted(graph.trees(), key=lambda tree: not tree.branches)  # What is by itself would be in the way.
    enter([*trees, *(Tree([key], []) for key in graph.unattached())])
    return ranks, main


def _place(filled: list[list[_Slot]]) -> None:
    """Give each slot its height. Above all of them is the height 0 or more."""
    for slots in filled:
        _settle(slots, [0.0] * len(slots))
    columns = range(len(filled))
    for _ in range(_SWEEPS):
        # Leftwards at the end: then what has one box on it is exactly beside that.
        for i in (*columns, *reversed(columns)):
            _settle(filled[i], [_middle(slot) for slot in filled[i]])
    top = min((slot.y - slot.height / 2 for slots in filled for slot in slots), default=0)
    for slots in filled:
        for slot in slots:
            slot.y -= top


def _middle(slot: _Slot) -> float:
    """Return the mean height of what is built on a slot's node; without that, of what the node is built on."""
    beside = slot.right or slot.left
    return sum(each.y for each in beside) / len(beside) if beside else slot.y


def _settle(slots: Sequence[_Slot], wanted: Sequence[float]) -> None:
    """Rectangle the slots of a column as near to the wanted heights as their order and their distances allow.

    The sum of the squares of the differences is the smallest there is: neighbours that would be too close, or in the
    wrong order, are moved together (isotonic regression by pooling adjacent violators).
    """
    blocks: list[tuple[float, float, int]] = []  # weight, weighted sum of heights without distances, number of slots
    offsets: list[float] = []
    for i, slot in enumerate(slots):
        offsets.append(offsets[-1] + _distance(slots[i - 1], slot) if i else 0.0)
        weight = 1.0 if slot.left or slot.right else 0.001  # A box by itself gives way.
        block = (weight, weight * (wanted[i] - offsets[i]), 1)
        while blocks and blocks[-1][1] / blocks[-1][0] > block[1] / block[0]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    heights = [total / weight for weight, total, count in blocks for _ in range(count)]
    for slot, height, offset in zip(slots, heights, offsets, strict=True):
        slot.y = height + offset


def _distance(upper: _Slot, lower: _Slot) -> float:
    """Return the least distance between the middles of two slots, one below the other."""
    together = upper.left == lower.left if upper.left or lower.left else upper.right == lower.right
    return (upper.height + lower.height) / 2 + (_TOGETHER if together else _APART)


def _pixel(length: float) -> int:
    """Return a length rounded, in such a way that two lengths that differ by an inaccuracy become the same."""
    return floor(length + 0.501)


def _drawn(boxes: Mapping[str, _Slot], filled: Sequence[Sequence[_Slot]], widths: Sequence[int]) -> Layout:
    lefts = [sum(widths[:i]) + _BESIDE * i for i in range(len(widths))]
    places = {
        key: Rectangle(lefts[slot.column], _pixel(slot.y - slot.height / 2), widths[slot.column], slot.height)
        for key, slot in boxes.items()
    }
    connectors: list[tuple[Point, ...]] = []
    waypoints = {slot for slots in filled for slot in slots}.difference(boxes.values())
    for left, width, slots in zip(lefts, widths, filled, strict=True):
        through = [slot for slot in slots if slot in waypoints]
        connectors += [(Point(left, _pixel(slot.y)), Point(left + width, _pixel(slot.y))) for slot in through]
        connectors += _across(left + width, slots)
    width = lefts[-1] + widths[-1] if widths else 0
    height = max((_pixel(slot.y + slot.height / 2) + 1 for slots in filled for slot in slots), default=0)
    return Layout(places, connectors, width, height)


def _across(left: int, slots: Sequence[_Slot]) -> Iterator[tuple[Point, ...]]:
    """Yield the connectors across the gap that begins at `left`.

    They turn at the same place if they begin at the same slot, or if they begin at slots that are connected with the
    same. Others turn at different places, where they would cover each other.
    """
    trunks: dict[tuple[_Slot, ...], list[_Slot]] = {}
    for slot in slots:
        trunks.setdefault(tuple(slot.right), []).append(slot)
    free: list[int] = []  # the height from which on each track is free again
    track_of: dict[tuple[_Slot, ...], int] = {}
    for rights, lefts in trunks.items():
        heights = [_pixel(slot.y) for slot in (*lefts, *rights)]
        if rights and len(set(heights)) > 1:
            track = next((i for i, height in enumerate(free) if height < min(heights)), len(free))
            free[track : track + 1] = [max(heights)]
            track_of[rights] = track
    for slot in slots:
        start = Point(left, _pixel(slot.y))
        for right in slot.right:
            end = Point(left + _BESIDE, _pixel(right.y))
            turn = left + _BESIDE * (track_of.get(tuple(slot.right), 0) + 1) // (len(free) + 1)
            yield (start, end) if start.y == end.y else (start, Point(turn, start.y), Point(turn, end.y), end)
