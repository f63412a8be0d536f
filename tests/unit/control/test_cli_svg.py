"""The drawing of the topology: every box is where it can be seen, and no name gets out of its box."""

from __future__ import annotations

import string
from dataclasses import asdict
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.bed import Served
from tests.unit.control.command import HOSTILE, Run
from tests.unit.control.test_cli_picture import BONDED, guest, link
from xennetd.cli.host_graph import HostGraph, Node, host_graph
from xennetd.cli.layout import Layout, Rectangle, layout
from xennetd.model.status import LinkStatus

SVG = "{http://www.w3.org/2000/svg}"
FOUR_GUESTS = [
    *(link("eth0"), link("eth1"), link("eth0.20", "vlan", "eth0"), link("eth0.21", "vlan", "eth0")),
    *(link("xenbr0", "bridge", "eth0"), link("xenbr20", "bridge", "eth0.20"), link("xenbr21", "bridge", "eth0.21")),
    *(guest(1, "xenbr0"), guest(2, "xenbr0"), guest(3, "xenbr20"), guest(4, "xenbr21"), guest(5, None, "pending")),
]


def drawn(served: Served, run: Run, links: list[LinkStatus]) -> ElementTree.Element:
    served.daemon.all_links = links
    status, out, _ = run("topology", "--format", "svg")
    assert status == 0
    assert out.isascii()
    assert run("topology", "--format", "svg")[1] == out
    return ElementTree.fromstring(out)


def texts(box: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in box.iter(f"{SVG}text")]


def place_of(box: ElementTree.Element) -> Rectangle:
    (shape,) = (each for each in box.iter(f"{SVG}rect") if each.attrib["class"].startswith("box"))
    return Rectangle(*(int(shape.attrib[name]) for name in ("x", "y", "width", "height")))


def boxes(drawing: ElementTree.Element) -> dict[str, tuple[list[str], Rectangle]]:
    """What is in each box, and its place, by the name in the box."""
    found = [each for each in drawing.iter(f"{SVG}g") if each.find(f"{SVG}rect") is not None]
    return {texts(box)[0]: (texts(box)[1:], place_of(box)) for box in found}


def test_a_box_says_what_a_link_is_and_how_it_is(served: Served, run: Run) -> None:
    found = boxes(drawn(served, run, BONDED))
    assert {name: texts for name, (texts, _) in found.items()} == {
        "bond0": ["up", "bond · 802.3ad · 10 Gbit/s"],
        "bond0.100": ["up", "VLAN 100"],
        "bond0.200": ["up", "VLAN 200 · mtu 1496"],
        "eth0": ["up", "nic · 10 Gbit/s"],
        "eth1": ["no carrier", "nic"],
        "eth2": ["down", "nic"],
        "management": ["up", "bridge · mtu 1496"],
        "service": ["up", "bridge · 10.100.0.254/24"],
        "vm-1": ["connected", "vif1.0"],
        "db\\x1b[2J": ["error", "vif2.0"],
        "vm-3": ["connected", "no carrier", "vif3.0 · mtu 1400"],
        "vm-4": ["pending", "vif4.0"],
    }


def test_what_is_built_on_a_link_is_right_of_it(served: Served, run: Run) -> None:
    lefts = {name: place.x for name, (_, place) in boxes(drawn(served, run, BONDED)).items()}
    columns = [
        {"eth0", "eth1", "eth2"},
        {"bond0"},
        {"bond0.100", "bond0.200"},
        {"service", "management"},
        {"vm-1", "db\\x1b[2J", "vm-3", "vm-4"},
    ]
    assert all(len({lefts[name] for name in column}) == 1 for column in columns)
    assert all(lefts[min(a)] < lefts[min(b)] for a, b in pairwise(columns))


def test_many_guests_alike_are_one_box(served: Served, run: Run) -> None:
    guests = [guest(number, f"xenbr{number % 2}") for number in range(500)]
    found = boxes(drawn(served, run, [link("xenbr0", "bridge"), link("xenbr1", "bridge"), *guests]))
    assert len(found) == 2 + 2 * 8 + 1  # Both that stand for many have one name.
    assert found["and 242 more"][0] == ["connected"]


def test_a_hostile_name_stays_a_text_in_its_box(served: Served, run: Run) -> None:
    names = ['<script>alert("&amp;")</script>', "]]><!--", HOSTILE, "\udcff\ufffe\x00", "e\u0301" * 400, "名" * 60]
    guests = [guest(number, "xenbr0", vm=name) for number, name in enumerate(names)]
    drawing = drawn(
        served, run, [link("xenbr0", "bridge", addresses=[f"2001:db8::{i}/64" for i in range(50)]), *guests]
    )
    assert {each.tag for each in drawing.iter()} == {
        f"{SVG}{tag}" for tag in ("svg", "g", "rect", "path", "text", "title", "style")
    }
    found = boxes(drawing)
    assert '<script>alert("&amp;")</script>' in found
    assert "]]><!--" in found
    assert found["xenbr0"][0][-1] == "…"
    for name, (_, place) in found.items():
        assert place.width < 500
        assert place.height < 120
        assert len(name) <= 64
    titles = "".join(each.text or "" for each in drawing.iter(f"{SVG}title"))
    assert "名" * 60 in titles


def test_a_name_that_is_drawn_fits_into_its_box(served: Served, run: Run) -> None:
    """In the widest of usual fonts a character is 0.62 times as wide as it is high."""
    links = [link("b", "bridge", addresses=["2001:db8:1111:2222:3333:4444:5555:6666/128"]), guest(1, "b", vm="n" * 90)]
    for name, (lines, place) in boxes(drawn(served, run, links)).items():
        assert len(name) * 13 * 0.62 + len(lines[0]) * 11 * 0.62 < place.width - 20
        assert all(len(line) * 11 * 0.62 < place.width - 16 for line in lines)


def test_without_links_there_is_an_empty_drawing(served: Served, run: Run) -> None:
    assert boxes(drawn(served, run, [])) == {}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[HostGraph, dict[str, tuple[int, int]]]:
    """Any links on any others, also where the kernel would refuse it, and their sizes."""
    names = list(string.ascii_letters[: draw(st.integers(0, 20))])
    nodes = {name: Node(name, draw(st.sampled_from(["nic", "bond", "vlan", "bridge", "guest"]))) for name in names}
    links = [name for name in names if nodes[name].kind != "guest"]
    below: dict[str, list[str]] = {}
    for name in names:
        lowers = st.lists(st.sampled_from(links), unique=True, max_size=3) if links else st.just([])
        below[name] = draw(lowers)[: 1 if nodes[name].kind == "guest" else 3]
    above = {name: [each for each in names if name in below[each]] for name in names}
    size = st.tuples(st.integers(40, 300), st.integers(20, 100))
    return HostGraph(nodes, above, below), {name: draw(size) for name in names}


def is_clear(found: Layout) -> bool:
    """Whether no box is over another one, and no connector runs through a box or out of the drawing."""
    places = list(found.places.values())
    apart = all(
        a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height < b.y or b.y + b.height < a.y
        for a, b in combinations(places, 2)
    )
    parts = [part for connector in found.connectors for part in pairwise(connector)]
    straight = all(a.x == b.x or a.y == b.y for a, b in parts)
    free = not any(
        max(a.x, b.x) > box.x
        and min(a.x, b.x) < box.x + box.width
        and max(a.y, b.y) >= box.y
        and min(a.y, b.y) <= box.y + box.height
        for a, b in parts
        for box in places
    )
    corners = [(point.x, point.y) for connector in found.connectors for point in connector]
    corners += [(box.x, box.y) for box in places] + [(box.x + box.width, box.y + box.height) for box in places]
    inside = all(0 <= x <= found.width and 0 <= y <= found.height for x, y in corners)
    return apart and straight and free and inside


@given(graphs())
def test_no_box_is_over_another_and_no_connector_runs_through_one(case: tuple[HostGraph, Any]) -> None:
    graph, sizes = case
    found = layout(graph, sizes)
    assert found.places.keys() == graph.nodes.keys()
    assert is_clear(found)


def reached(found: Layout, name: str) -> set[str]:
    """The boxes to which connectors lead from a box."""
    box = found.places[name]
    points = {(box.x + box.width, box.y + box.height // 2)}
    for connector in sorted(found.connectors, key=lambda points: points[0].x):
        if connector[0] in points:
            points.add(connector[-1])
    return {key for key, each in found.places.items() if (each.x, each.y + each.height // 2) in points}


def test_connectors_lead_from_each_link_to_what_is_built_on_it() -> None:
    graph = host_graph([asdict(each) for each in FOUR_GUESTS])
    found = layout(graph, dict.fromkeys(graph.nodes, (100, 40)))
    assert {key: reached(found, key) for key in graph.nodes} == {key: set(keys) for key, keys in graph.above.items()}
    assert is_clear(found)
