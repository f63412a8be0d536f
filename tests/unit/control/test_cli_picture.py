"""The picture of the topology: one line for each link, guests on their bridge, many alike folded."""

from __future__ import annotations

import json
import shutil
import subprocess

from tests.unit.control.bed import Served
from tests.unit.control.command import Run
from xennetd.model.status import LinkStatus

MAC = "00:16:3e:00:00:01"


def link(name: str, kind: str = "nic", *below: str, what: str = "", mtu: int = 1500, **more: object) -> LinkStatus:
    addresses = more.pop("addresses", [])
    up, carrier = bool(more.pop("up", True)), bool(more.pop("carrier", True))
    assert isinstance(addresses, list)
    assert not more
    return LinkStatus(name, kind, list(below), what, addresses, mtu, MAC, up, carrier, ours=False)


def guest(number: int, bridge: str | None, state: str = "connected", vm: str | None = None) -> LinkStatus:
    name = f"vif{number}.0"
    return LinkStatus(
        name, "vif", [], "", [], 1500, MAC, True, True, True, bridge, name, vm or f"vm-{number}", state
    )  # fmt: skip


BONDED = [
    link("bond0", "bond", "eth0", "eth1", what="802.3ad"),
    link("bond0.100", "vlan", "bond0", what="VLAN 100"),
    link("bond0.200", "vlan", "bond0", what="VLAN 200", mtu=1496),
    link("eth0"),
    link("eth1", carrier=False),
    link("eth2", up=False),
    link("management", "bridge", "bond0.200"),
    link("service", "bridge", "bond0.100", addresses=["10.100.0.254/24"]),
    guest(1, "service"),
    guest(2, "service", "error", vm="db\x1b[2J"),
    guest(3, "management"),
]


def test_everything_is_under_what_it_is_built_on(served: Served, run: Run) -> None:
    served.daemon.all_links = BONDED
    status, out, _ = run("topology")
    assert status == 0
    assert out == (
        "eth0  nic ┐\n"
        "eth1  nic  no carrier\n"
        "└─ bond0  bond  802.3ad\n"
        "   ├─ bond0.100  vlan  VLAN 100\n"
        "   │  └─ service  bridge  10.100.0.254/24\n"
        "   │     ├─ vif1.0  vm-1  connected\n"
        "   │     └─ vif2.0  db\\x1b[2J  error\n"
        "   └─ bond0.200  vlan  VLAN 200  mtu 1496\n"
        "      └─ management  bridge\n"
        "         └─ vif3.0  vm-3  connected\n"
        "eth2  nic  down\n"
    )


def test_many_guests_alike_are_folded_and_none_is_forgotten(served: Served, run: Run) -> None:
    served.daemon.all_links = [
        link("xenbr0", "bridge"),
        *(guest(number, "xenbr0") for number in range(1, 501)),
        guest(600, "xenbr0", "error"),
        guest(601, None, "pending"),
    ]
    lines = run("topology")[1].splitlines()
    assert lines[0] == "xenbr0  bridge"
    assert lines[1:9] == [f"├─ vif{number}.0  vm-{number}  connected" for number in range(1, 9)]
    assert lines[9:] == [
        "├─ vif600.0  vm-600  error",
        "└─ and 492 more  connected",
        "no bridge",
        "└─ vif601.0  vm-601  pending",
    ]


def test_a_link_that_two_are_built_on_is_shown_once(served: Served, run: Run) -> None:
    served.daemon.all_links = [link("b", "bridge", "e", "f"), link("e"), link("e.5", "vlan", "e"), link("f")]
    assert run("topology")[1].splitlines() == ["e  nic", "├─ b  bridge", "└─ e.5  vlan", "f  nic  → b"]


def test_json_has_all_and_dot_can_read_the_graph(served: Served, run: Run) -> None:
    served.daemon.all_links = BONDED
    assert [each["name"] for each in json.loads(run("topology", "--format", "json")[1])] == [
        each.name for each in BONDED
    ]
    graph = run("topology", "--format", "dot")[1]
    assert '  "bond0" -> "bond0.100";' in graph
    assert '  "service" -> "vif1.0";' in graph
    assert '\\nvm-1"];' in graph
    assert "\x1b" not in graph
    if shutil.which("dot"):
        drawn = subprocess.run(["dot", "-Tsvg"], input=graph, capture_output=True, text=True, check=True)
        assert "bond0.100" in drawn.stdout
