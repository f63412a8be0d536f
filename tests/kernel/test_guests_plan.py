"""The guests' half of a plan: what an apply would change for whom, and that it does just that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.netns import Host
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.test_topology import WAITS
from tests.kernel.wait import eventually

LAB = """
[bridge.lab]
addresses = ["10.9.0.254/24"]
[network.lab]
mode = "bridge"
bridge = "lab"
"""


def rule(name: str, words: str) -> str:
    return f'[[policy]]\nname = "{name}"\nmatch = {{ vm = "{name}*" }}\n{words}\n'


def ask(xennetd: Daemon, *verb: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(xennetd.ctl(*verb, "--json").stdout)
    return answer


def places(xennetd: Daemon) -> dict[str, tuple[str, str | None]]:
    return {row["vm"]: (row["state"], row["bridge"]) for row in json.loads(xennetd.ctl("list", "--json").stdout)}


@pytest.fixture
def guests(host: Host, guest: MakeGuest, daemon: MakeDaemon) -> Daemon:
    """Three web guests, one that waits for a bridge, and one more, on a bridge of the distribution."""
    host.rtnl.add_bridge("xenbr0")
    host.rtnl.set("xenbr0", up=True)
    xennetd = daemon(STAND_IN)
    for name in ("web-1", "web-2", "db", "odd"):
        guest(name, VifSpec(bridge="xenbr0")).connect()
    guest("late", VifSpec(bridge="lab"))
    eventually(lambda: places(xennetd).get("late", ("", ""))[0] == "error")
    return xennetd


def test_a_plan_says_who_is_moved_cut_off_and_attached_and_apply_does_it(guests: Daemon) -> None:
    text = STAND_IN + LAB + rule("web", 'network = "lab"') + rule("odd", 'deny = "not here"')
    guests.configure(text)
    before = places(guests)
    planned = ask(guests, "plan")
    assert planned["problems"] == []
    changes = {line.partition(": ")[0] if "denied" not in line else "cut off": line for line in planned["guests"]}
    assert set(changes) == {"moved from xenbr0 to lab (network lab)", "cut off", "attached to lab"}
    moved = "moved from xenbr0 to lab (network lab): vif1.0 of web-1, vif2.0 of web-2"
    assert changes["moved from xenbr0 to lab (network lab)"] == moved
    assert changes["cut off"].startswith('cut off (denied by policy: not here (policy "odd")): ')
    assert "late" in changes["attached to lab"]
    assert not any("db" in line for line in planned["guests"])
    assert places(guests) == before, "a plan changes nothing"

    done = ask(guests, "apply")
    assert (done["problems"], done["steps"]) == ([], planned["steps"])
    eventually(lambda: places(guests)["late"] == ("connected", "lab"))
    assert {vm: places(guests)[vm] for vm in ("web-1", "web-2", "db")} == {
        "web-1": ("connected", "lab"),
        "web-2": ("connected", "lab"),
        "db": ("connected", "xenbr0"),
    }
    assert places(guests)["odd"][0] == "error"
    after = ask(guests, "plan")
    assert (after["steps"], after["guests"]) == ([], [])


def test_the_guests_follow_when_an_apply_is_confirmed(guests: Daemon) -> None:
    guests.configure(STAND_IN + LAB + rule("web", 'network = "lab"'))
    assert guests.ctl("apply", "--confirm", "30").returncode == 0
    eventually(lambda: places(guests)["late"] == ("connected", "lab"))
    assert places(guests)["web-1"] == ("connected", "xenbr0"), "what may be rolled back moves nobody"
    assert guests.ctl("confirm").returncode == 0
    assert places(guests)["web-1"] == ("connected", "lab")


def test_a_guests_change_waits_for_a_host_object_that_is_not_applied(guests: Daemon, host: Host) -> None:
    guests.configure(STAND_IN + LAB + rule("web", 'network = "lab"'))
    assert guests.ctl("reload").returncode == 0
    assert host.link("lab") is None
    web = next(row for row in json.loads(guests.ctl("list", "--json").stdout) if row["vm"] == "web-1")
    links = host.links()
    assert links[web["vif"]]["master"] == "xenbr0", "it keeps what it has"
    assert any("lab" in problem and "web-1" in problem for problem in status(guests)["problems"])
    assert WAITS in status(guests)["problems"]
    ask(guests, "apply")
    eventually(lambda: places(guests)["web-1"] == ("connected", "lab"))


def test_a_reload_applies_the_hosts_links_too_where_the_configuration_says_so(guests: Daemon, host: Host) -> None:
    """What it applies is what has changed in the files; all else is for `xennetctl apply`."""
    on_reload = STAND_IN.replace("[daemon]", '[daemon]\napply = "on-reload"')
    guests.configure(on_reload + LAB + rule("web", 'network = "lab"'))
    assert guests.ctl("reload").returncode == 0
    assert places(guests)["web-1"] == ("connected", "lab")
    assert WAITS not in status(guests)["problems"]
    guests.configure(on_reload)
    guests.ctl("reload")
    problems = status(guests)["problems"]
    assert WAITS in problems
    assert any('"lab" can\'t go while guests are on it' in problem for problem in problems)
    assert host.link("lab") is not None


def test_neither_a_confirmation_nor_a_reload_applies_what_nobody_confirmed(guests: Daemon, host: Host) -> None:
    on_reload = STAND_IN.replace("[daemon]", '[daemon]\napply = "on-reload"')
    guests.configure(on_reload)
    assert guests.ctl("reload").returncode == 0
    guests.configure(on_reload + "[bridge.one]\n")
    assert guests.ctl("apply", "--confirm", "30").returncode == 0
    guests.configure(on_reload + "[bridge.two]\n")
    assert guests.ctl("confirm").returncode == 0
    assert (host.link("one") is not None, host.link("two")) == (True, None)
    guests.configure(on_reload + "[bridge.one]\n[bridge.three]\n")
    assert guests.ctl("apply", "--confirm", "10").returncode == 0
    eventually(lambda: host.link("three") is None, timeout=15)
    guests.ctl("reload")
    assert host.link("three") is None, "it was rolled back"
    assert WAITS in status(guests)["problems"]


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_a_reload_or_a_restart_moves_no_guest_to_what_waits_for_its_confirmation(
    guests: Daemon, host: Host, how: str
) -> None:
    guests.configure(STAND_IN + LAB + rule("web", 'network = "lab"'))
    assert guests.ctl("apply", "--confirm", "12").returncode == 0
    if how == "reload":
        guests.ctl("reload")
    else:
        guests.kill9()
        guests.start()
    web = next(row for row in json.loads(guests.ctl("list", "--json").stdout) if row["vm"] == "web-1")
    assert any("waits for its confirmation" in each for each in status(guests)["problems"])
    assert host.links()[web["vif"]]["master"] == "xenbr0"
    eventually(lambda: not any("rolled back in" in each for each in status(guests)["notes"]), timeout=20)
    links = host.links()
    assert (links[web["vif"]]["master"], "UP" in links[web["vif"]]["flags"]) == ("xenbr0", True)
    guests.ctl("apply")
    eventually(lambda: places(guests)["web-1"] == ("connected", "lab"))


def test_a_plan_names_guests_whose_network_or_bridge_changes_around_them(
    host: Host, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    host.rtnl.add_veth("eth9", "eth0", host.guest("beyond").fd)
    lab = '[network.lab]\nmode = "nat"\nsubnets = ["10.77.0.0/24"]\n' + rule("web", 'network = "lab"')
    bridge = '[bridge.xenbr9]\nports = ["eth9"]\n'
    xennetd = daemon(STAND_IN + bridge + lab)
    ask(xennetd, "apply")
    guest("web", VifSpec(ip="10.77.0.5")).connect()
    guest("db", VifSpec(bridge="xenbr9")).connect()
    assert ask(xennetd, "plan")["guests"] == []
    xennetd.configure(STAND_IN + bridge.replace('"eth9"', "") + lab.replace('"nat"', '"isolated"'))
    network, uplink = ask(xennetd, "plan")["guests"]
    assert network.startswith("changed (")
    assert "its network: mode" in network
    assert network.endswith("of web")
    assert uplink.startswith("changed (its bridge loses eth9): ")
