"""The picture of the topology: one line for each link, guests on their bridge, many alike folded."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.unit.control.bed import Served
from tests.unit.control.command import Run
from xennetd.model.status import LinkStatus

MAC = "00:16:3e:00:00:01"


def link(name: str, kind: str = "nic", *below: str, what: str = "", mtu: int = 1500, **more: Any) -> LinkStatus:
    values = {"addresses": [], "up": True, "carrier": True, "ours": False, **more}
    return LinkStatus(name=name, kind=kind, below=list(below), what=what, mtu=mtu, mac=MAC, **values)


def guest(number: int, bridge: str | None, state: str = "connected", vm: str | None = None, **more: Any) -> LinkStatus:
    name = f"vif{number}.0"
    return link(name, "vif", master=bridge, vif=name, vm=vm or f"vm-{number}", state=state, **more)


BONDED = [
    link("bond0", "bond", "eth0", "eth1", what="802.3ad", speed=10_000),
    link("bond0.100", "vlan", "bond0", what="VLAN 100"),
    link("bond0.200", "vlan", "bond0", what="VLAN 200", mtu=1496),
    link("eth0", speed=10_000),
    link("eth1", carrier=False),
    link("eth2", up=False),
    link("management", "bridge", "bond0.200", mtu=1496),
    link("service", "bridge", "bond0.100", addresses=["10.100.0.254/24"]),
    guest(1, "service"),
    guest(2, "service", "error", vm="db\x1b[2J"),
    guest(3, "management", carrier=False, mtu=1400),
    guest(4, "management", "pending", carrier=False, mtu=1496),
]


def test_everything_is_under_what_it_is_built_on(served: Served, run: Run) -> None:
    served.daemon.all_links = BONDED
    status, out, _ = run("topology")
    assert status == 0
    assert out == (
        "┌─ eth0              nic        10 Gbit/s\n"
        "├─ eth1              nic        no carrier\n"
        "└─ bond0             bond       802.3ad  10 Gbit/s\n"
        "   ├─ bond0.100      vlan       VLAN 100\n"
        "   │  └─ service     bridge     10.100.0.254/24\n"
        "   │     ├─ vif1.0   vm-1       connected\n"
        "   │     └─ vif2.0   db\\x1b[2J  error\n"
        "   └─ bond0.200      vlan       VLAN 200  mtu 1496\n"
        "      └─ management  bridge     mtu 1496\n"
        "         ├─ vif3.0   vm-3       connected  no carrier  mtu 1400\n"
        "         └─ vif4.0   vm-4       pending\n"
        "eth2                 nic        down\n"
    )


def test_many_guests_alike_are_folded_and_none_is_forgotten(served: Served, run: Run) -> None:
    served.daemon.all_links = [
        link("xenbr0", "bridge"),
        link("xenbr1", "bridge"),
        *(guest(number, "xenbr0", up=number != 77) for number in range(1, 501)),
        guest(600, "xenbr0", "error"),
        guest(601, None, "pending"),
        guest(602, "removed-meanwhile", "detaching"),
        *(guest(number, "xenbr1") for number in range(701, 710)),
    ]
    out = run("topology")[1]
    assert out.splitlines() == [
        "xenbr0           bridge",
        *(f"├─ vif{number}.0        vm-{number}    connected" for number in range(1, 9)),
        "├─ vif77.0       vm-77   connected  down",
        "├─ vif600.0      vm-600  error",
        "└─ and 491 more          connected",
        "xenbr1           bridge",
        *(f"├─ vif{number}.0      vm-{number}  connected" for number in range(701, 709)),
        "└─ vif709.0      vm-709  connected",
        "no bridge",
        "├─ vif601.0      vm-601  pending",
        "└─ vif602.0      vm-602  detaching",
    ]


def test_a_link_that_two_are_built_on_is_shown_once(served: Served, run: Run) -> None:
    served.daemon.all_links = [
        *(link("b", "bridge", "e", "e.5", "f.5"), link("e"), link("e.5", "vlan", "e"), link("e.6", "vlan", "e")),
        *(link("f"), link("f.5", "vlan", "f")),
    ]
    assert run("topology")[1].splitlines() == [
        "e       nic",
        "├─ b    bridge",
        "├─ e.5  vlan    → b",
        "└─ e.6  vlan",
        "f       nic",
        "└─ f.5  vlan    → b",
    ]


def test_links_built_on_each_other_are_shown_all_the_same(served: Served, run: Run) -> None:
    """The kernel allows no circle. A list that is made while links change could have one."""
    served.daemon.all_links = [link("b", "bridge", "v"), link("v", "vlan", "b")]
    assert run("topology")[1].splitlines() == ["b     bridge", "└─ v  vlan    → b"]


def test_a_very_long_name_moves_only_its_own_line(served: Served, run: Run) -> None:
    served.daemon.all_links = [link("b", "bridge"), guest(1, "b", vm="n" * 60), guest(2, "b", vm="日本"), guest(3, "b")]
    assert run("topology")[1].splitlines() == [
        "b          bridge",
        f"├─ vif1.0  {'n' * 60}  connected",
        "├─ vif2.0  日本    connected",
        "└─ vif3.0  vm-3    connected",
    ]


@pytest.mark.parametrize(
    ("mbits", "words"), [(10, "10 Mbit/s"), (1000, "1 Gbit/s"), (2500, "2.5 Gbit/s"), (400_000, "400 Gbit/s")]
)
def test_a_speed_is_told_in_its_largest_unit(served: Served, run: Run, mbits: int, words: str) -> None:
    served.daemon.all_links = [link("eth0", speed=mbits)]
    assert run("topology")[1] == f"eth0  nic  {words}\n"
    assert json.loads(run("topology", "--format", "json")[1])[0]["speed"] == mbits


def test_json_has_all_and_dot_can_read_the_graph(served: Served, run: Run) -> None:
    served.daemon.all_links = BONDED
    assert [each["name"] for each in json.loads(run("topology", "--format", "json")[1])] == [
        each.name for each in BONDED
    ]
    graph = run("topology", "--format", "dot")[1]
    assert '  "bond0" -> "bond0.100";' in graph
    assert '  "service" -> "vif1.0";' in graph
    assert '[label="bond0\\nbond\\n802.3ad\\n10 Gbit/s"];' in graph
    assert '[label="vif2.0\\ndb\\\\x1b[2J\\nerror", color="#cf222e"];' in graph
    assert "\x1b" not in graph
    if shutil.which("dot"):
        drawn = subprocess.run(["dot", "-Tsvg"], input=graph, capture_output=True, text=True, check=True)
        assert "bond0.100" in drawn.stdout
