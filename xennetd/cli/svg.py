"""The host's topology as an SVG for a web page, from the NICs on the left to the guests on the right.

Colours follow the reader's light or dark scheme, also where a page shows the file by <img>. A state has a colour and a
word. The file has no script and no font, and consists of ASCII. All its texts are in fonts whose characters have one
width, so that every text fits into its box.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from xennetd.cli.host_graph import HostGraph, Node
from xennetd.cli.layout import Point, Rectangle, layout
from xennetd.cli.spans import Span, cells

_LONGEST, _LONGEST_NAME = 43, 32
"""Cells of a line, at most: those of a full IPv6 address with its prefix length. Cells of a name, at most."""

_LINES = 5
"""Lines below a name, at most."""

_JOINED = 30
"""Cells of a line that consists of several facts, at most."""

_NAME_CELL, _CELL = 8.1, 6.9
"""The width of a character, in the two sizes of text: 13 and 11 pixels. The widest usual font needs 0.62 of these."""

_GAP = 2
"""Cells between a text and the word of the state."""

_STRIPE, _PAD, _FIRST, _LINE, _LAST, _MARGIN, _RADIUS = 4, 12, 20, 15, 10, 20, 8
"""Pixels: of the coloured stripe at the left of a box, beside a text, from a box's upper edge to its first line, from
line to line, below the last one, around the whole drawing, and of a connector's corners."""

_STYLE = """\
text { font-family: "DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace; font-size: 11px; fill: #57606a }
.name { font-size: 13px; font-weight: bold; fill: #1f2328 }
.page { fill: #ffffff }
.box { fill: #f6f8fa; stroke: #d0d7de }
.folded { stroke-dasharray: 4 3 }
.wire { fill: none; stroke: #8c959f; stroke-width: 1.5 }
.good { fill: #1a7f37 }
.waiting { fill: #9a6700 }
.bad { fill: #cf222e }
.aside { fill: #6e7781 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 }
.name { fill: #f0f6fc }
.page { fill: #0d1117 }
.box { fill: #161b22; stroke: #3d444d }
.wire { stroke: #656c76 }
.good { fill: #3fb950 }
.waiting { fill: #d29922 }
.bad { fill: #ff6a61 }
.aside { fill: #9198a1 }
}"""

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})


def svg(graph: HostGraph) -> str:
    """Return the drawing as the text of an SVG file, which is the same for the same graph."""
    shown = {key: _text(node, attached=bool(graph.below[key])) for key, node in graph.nodes.items()}
    found = layout(graph, {key: text.size for key, text in shown.items()})
    width, height = found.width + 2 * _MARGIN, found.height + 2 * _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>Network topology</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        f'<g transform="translate({_MARGIN} {_MARGIN})">',
        *([f'<path class="wire" d="{"".join(map(_path, found.connectors))}"/>'] if found.connectors else []),
        *(line for key in graph.nodes for line in _box(shown[key], found.places[key])),
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines).encode("ascii", "xmlcharrefreplace").decode()


def _path(points: tuple[Point, ...]) -> str:
    """Return a connector with rounded corners, in the language of a path's `d`."""
    radius = min(_RADIUS, *(max(abs(a.x - b.x), abs(a.y - b.y)) // 2 for a, b in pairwise(points)))
    parts = [f"M{points[0].x} {points[0].y}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before, radius), _towards(corner, after, radius)
        parts.append(f"L{start.x} {start.y}Q{corner.x} {corner.y} {end.x} {end.y}")
    return "".join([*parts, f"L{points[-1].x} {points[-1].y}"])


def _towards(corner: Point, other: Point, radius: int) -> Point:
    """Return the point that is so many pixels away from a corner, in the direction of another one."""

    def step(difference: int) -> int:
        return (difference > 0) - (difference < 0)

    return Point(corner.x + radius * step(other.x - corner.x), corner.y + radius * step(other.y - corner.y))


@dataclass(frozen=True, slots=True)
class _Text:
    """What is in a box: the name, the lines below it, and the words at the right. `whole` is all of it, for a tip."""

    name: str
    words: tuple[Span, ...]
    lines: list[str]
    whole: str
    folded: bool

    @property
    def size(self) -> tuple[int, int]:
        """The box that the text needs, as width and height."""
        widths = [cells(self.name) * _NAME_CELL, *(cells(line) * _CELL for line in self.lines)]
        words = [(_GAP + cells(word)) * _CELL for word, _ in self.words]
        width = max(text + word for text, word in zip_longest(widths, words, fillvalue=0.0))
        return _STRIPE + 2 * _PAD + round(width), _FIRST + _LINE * (max(len(widths), len(words)) - 1) + _LAST


def _text(node: Node, *, attached: bool) -> _Text:
    words = node.states or (("up", "good"),)
    if node.kind != "guest":
        name, facts = node.name, list(node.facts)
        if not (facts and facts[0].lower().startswith(node.kind)):  # "vlan" in front of "VLAN 5" says nothing.
            facts.insert(0, node.kind)
    else:
        name, facts = (node.vm, [node.name, *node.facts]) if node.vm else (node.name, list(node.facts))
        facts += [] if attached else ["no bridge"]
    whole = ", ".join([name, *(word for word, _ in words), *facts])
    lines: list[str] = []
    for fact in facts:
        if lines and cells(f"{lines[-1]} · {fact}") <= _JOINED:
            lines[-1] += f" · {fact}"
        else:
            lines.append(fact)
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = ["…"]
    cut = [_cut(line, _LONGEST) for line in lines]
    return _Text(_cut(name, _LONGEST_NAME), words, cut, whole, folded=bool(node.folded))


def _cut(text: str, longest: int) -> str:
    """Return the text, or as much of it as so many cells hold, with an ellipsis."""
    if cells(text) <= longest and len(text) <= 2 * longest:
        return text
    text = text[: 2 * longest]  # There may be any number of accents, which take no cell.
    while cells(text) >= longest:
        text = text[:-1]
    return f"{text}…"


def _box(text: _Text, place: Rectangle) -> Iterator[str]:
    x, y, width, height = place
    left, right = x + _STRIPE + _PAD, x + width - _PAD
    yield f"<g><title>{_escaped(text.whole)}</title>"
    box, stripe = "box folded" if text.folded else "box", text.words[-1][1] or "aside"
    yield f'<rect class="{box}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>'
    yield f'<rect class="{stripe}" x="{x}" y="{y}" width="{_STRIPE}" height="{height}" rx="2"/>'
    yield f'<text class="name" x="{left}" y="{y + _FIRST}">{_escaped(text.name)}</text>'
    for i, (word, style) in enumerate(text.words):
        yield (
            f'<text class="{style or "aside"}" x="{right}" y="{y + _FIRST + _LINE * i}" text-anchor="end">'
            f"{_escaped(word)}</text>"
        )
    for i, line in enumerate(text.lines, 1):
        yield f'<text x="{left}" y="{y + _FIRST + _LINE * i}">{_escaped(line)}</text>'
    yield "</g>"


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
