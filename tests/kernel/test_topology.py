"""The host's own bridges: planned, applied, kept, made again at a start, and never at the price of an address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.netns import Host
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.status import status
from tests.kernel.wait import eventually

TWO_BRIDGES = """
[bridge.xenbr0]
ports = ["eth0"]
addresses = ["10.0.0.254/24", "fd00::254/64"]
[bridge.xenbr1]
ports = ["eth1"]
addresses = []
multicast_snooping = false
"""
WAITS = "the host's topology in the configuration is not in force: see xennetctl plan, then run xennetctl apply"
FILE = Path("/var/lib/xennetd/topology.json")


@pytest.fixture
def nics(host: Host) -> Host:
    """The host with eth0 and eth1, each wired to a machine of its own, and without addresses."""
    for number in (0, 1):
        beyond = host.guest(f"beyond{number}")
        host.rtnl.add_veth(f"eth{number}", "eth0", beyond.fd)
        beyond.rtnl.set("eth0", up=True)
        beyond.rtnl.add_address("eth0", f"10.0.{number}.1/24")
    return host


def plan(xennetd: Daemon) -> tuple[int, list[str], list[str]]:
    """The exit status of `xennetctl plan`, what it would do, and why it would not."""
    done = xennetd.ctl("plan", "--json")
    answer = json.loads(done.stdout)
    return done.returncode, answer["steps"], answer["problems"]


def apply(xennetd: Daemon) -> list[str]:
    """Apply, which must work, and return what it did. The next plan must be empty."""
    done = xennetd.ctl("apply", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["problems"]) == (0, []), answer
    assert plan(xennetd) == (0, [], [])
    steps: list[str] = answer["steps"]
    return steps


def shape(host: Host) -> dict[str, Any]:
    """What a test compares of the host's links: everything that xennetd may set, of all links but guests'."""
    shaped: dict[str, Any] = {}
    for name, link in host.links().items():
        data = link.get("linkinfo", {}).get("info_data", {})
        kept = {key: data[key] for key in ("forward_delay", "stp_state", "mcast_snooping") if key in data}
        flags = sorted({"UP", "NOARP"} & set(link["flags"]))
        shaped[name] = (link.get("master"), link["address"], link["mtu"], link.get("group"), flags, kept)
        shaped[f"addresses of {name}"] = sorted(each for each in host.addresses(name) if not each.startswith("fe80"))
    return shaped


def test_nothing_is_changed_before_an_apply(nics: Host, daemon: MakeDaemon) -> None:
    before = shape(nics)
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    assert WAITS in status(xennetd)["problems"]
    code, steps, problems = plan(xennetd)
    assert (code, problems) == (0, [])
    assert any(step.startswith("ip link add xenbr0 ") and step.endswith("; set up") for step in steps)
    assert {"ip link set eth0 master xenbr0", "ip link set eth1 master xenbr1", "ip link set eth0 up"} <= set(steps)
    assert "ip addr add 10.0.0.254/24 dev xenbr0" in steps
    assert xennetd.ctl("reload").returncode == 0
    assert shape(nics) == before


def test_an_apply_makes_bridges_that_work_and_guests_reach_the_wire(
    nics: Host, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    macs = {name: link["address"] for name, link in nics.links().items()}
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    assert WAITS not in status(xennetd)["problems"]
    links = nics.links()
    assert links["xenbr0"]["address"] == macs["eth0"]
    assert links["xenbr0"]["linkinfo"]["info_data"]["forward_delay"] == 0
    assert links["xenbr1"]["linkinfo"]["info_data"]["mcast_snooping"] == 0
    eventually(lambda: nics.ping("10.0.0.1"))
    web = guest("web", VifSpec(bridge="xenbr1"), address="10.0.1.5/24")
    web.connect()
    eventually(lambda: web.ping("10.0.1.1"))
    assert not web.ping("10.0.0.254")
    assert nics.links()["xenbr0"]["address"] == macs["eth0"], "a guest's port changes it"


def test_a_bridge_without_addresses_is_silent(nics: Host, daemon: MakeDaemon) -> None:
    """Linux answers ARP for its addresses on every link, and has a link-local address on each."""
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    assert nics.addresses("xenbr1") == []
    (beyond,) = (each for each in nics._guests if each.name == "beyond1")
    beyond.run("ip", "route", "add", "10.0.0.0/24", "dev", "eth0")
    assert not beyond.ping("10.0.0.254", wait=0.5)
    assert "lladdr" not in beyond.run("ip", "neigh", "show", "10.0.0.254").stdout
    xennetd.configure(STAND_IN + TWO_BRIDGES.replace("addresses = []", 'addresses = ["10.0.1.254/24"]'))
    apply(xennetd)
    eventually(lambda: beyond.ping("10.0.1.254"))


def test_what_is_no_longer_named_goes_and_the_host_is_as_before(nics: Host, daemon: MakeDaemon) -> None:
    nics.rtnl.set("eth0", up=True)
    nics.rtnl.set("eth1", up=True)
    nics.bridge("foreign")
    before = shape(nics)
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    xennetd.configure(STAND_IN + TWO_BRIDGES.replace("[bridge.xenbr1]", "[bridge.other]"))
    assert "remove link xenbr1" in apply(xennetd)
    assert nics.links()["eth1"]["master"] == "other"
    xennetd.configure(STAND_IN)
    apply(xennetd)
    assert shape(nics) == before


def test_an_existing_bridge_is_adopted_changed_in_place_and_stays(nics: Host, daemon: MakeDaemon) -> None:
    nics.bridge("xenbr0")
    index = nics.links()["xenbr0"]["ifindex"]
    delay = nics.links()["xenbr0"]["linkinfo"]["info_data"]["forward_delay"]
    xennetd = daemon(STAND_IN + '[bridge.xenbr0]\nports = ["eth0"]\nmulticast_querier = true\n')
    apply(xennetd)
    link = nics.links()["xenbr0"]
    data = link["linkinfo"]["info_data"]
    assert (link["ifindex"], data["mcast_querier"], data["forward_delay"]) == (index, 1, delay)
    xennetd.configure(STAND_IN)
    apply(xennetd)
    links = nics.links()
    assert (links["xenbr0"]["ifindex"], links["eth0"].get("master")) == (index, None)


def test_on_a_bridge_that_was_there_the_host_is_silent_only_as_long_as_it_is_told_to(
    nics: Host, daemon: MakeDaemon
) -> None:
    nics.bridge("xenbr0", address="10.0.0.254/24")
    nics.rtnl.set("eth0", up=True)
    before = shape(nics)
    silent = STAND_IN + '[bridge.xenbr0]\nports = ["eth0"]\naddresses = []\n'
    xennetd = daemon(silent)
    _, _, (problem,) = plan(xennetd)
    assert problem == "xenbr0 has 10.0.0.254/24, which nobody could reach on a silent link: take them off xenbr0 first"
    assert (xennetd.ctl("apply").returncode, shape(nics)) == (1, before)
    nics.run("ip", "address", "flush", "dev", "xenbr0", "scope", "global")
    apply(xennetd)
    assert "NOARP" in nics.links()["xenbr0"]["flags"]
    nics.run("ip", "link", "set", "xenbr0", "addrgenmode", "eui64")
    eventually(lambda: plan(xennetd) == (0, [], []))
    nics.run("ip", "link", "set", "xenbr0", "addrgenmode", "eui64")
    xennetd.configure(silent.replace("addresses = []", ""))
    apply(xennetd)
    xennetd.configure(silent)
    apply(xennetd)
    xennetd.configure(STAND_IN)
    assert "ip link set xenbr0 arp on" in apply(xennetd)
    nics.run("ip", "link", "set", "eth0", "master", "xenbr0")
    nics.rtnl.add_address("xenbr0", "10.0.0.254/24")
    eventually(lambda: nics.ping("10.0.0.1"))


def test_a_port_with_an_address_is_refused_and_nothing_is_touched(nics: Host, daemon: MakeDaemon) -> None:
    nics.rtnl.set("eth0", up=True)
    nics.rtnl.add_address("eth0", "192.0.2.7/24")
    before = shape(nics)
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    code, steps, (problem,) = plan(xennetd)
    assert (code, bool(steps)) == (1, True)
    assert problem.startswith("eth0 has 192.0.2.7/24, which nobody could reach any more once it is a port of xenbr0")
    refused = xennetd.ctl("apply")
    assert (refused.returncode, problem in refused.stdout, "Nothing was changed." in refused.stdout) == (1, True, True)
    assert (shape(nics), FILE.exists()) == (before, False)


def test_a_link_of_another_kind_is_not_replaced(nics: Host, daemon: MakeDaemon) -> None:
    nics.rtnl.add_veth("xenbr0", "peer", nics.guest("other").fd)
    xennetd = daemon(STAND_IN + "[bridge.xenbr0]\n")
    _, _, problems = plan(xennetd)
    assert problems == ['"xenbr0" can\'t be a bridge: there is a link of another kind with that name']
    assert xennetd.ctl("apply").returncode == 1


def test_a_start_makes_what_was_applied_last_and_not_what_the_files_say(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    wanted = shape(nics)
    xennetd.terminate()
    for bridge in ("xenbr0", "xenbr1"):
        nics.run("ip", "link", "delete", bridge)
    xennetd.configure(STAND_IN + "[bridge.another]\n")
    xennetd.start()
    assert shape(nics) == wanted
    assert WAITS in status(xennetd)["problems"]


def test_a_restart_changes_nothing_that_is_right(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    with_carriers = {name: Path(f"/sys/class/net/{name}/carrier_changes").read_text() for name in nics.links()}
    wanted = shape(nics)
    xennetd.kill9()
    xennetd.start()
    assert shape(nics) == wanted
    assert {name: Path(f"/sys/class/net/{name}/carrier_changes").read_text() for name in nics.links()} == with_carriers


def test_a_missing_nic_keeps_nothing_else_and_is_taken_when_it_comes(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    xennetd.terminate()
    for link in ("xenbr0", "xenbr1", "eth1"):
        nics.run("ip", "link", "delete", link)
    xennetd.start()
    assert nics.links()["xenbr0"]["flags"]
    eventually(lambda: nics.ping("10.0.0.1"))
    assert 'there is no NIC "eth1": what is built on it waits' in status(xennetd)["problems"]
    nics.rtnl.add_veth("eth1", "eth0", nics.guest("later").fd)
    eventually(lambda: nics.links()["eth1"].get("master") == "xenbr1")
    eventually(lambda: status(xennetd)["problems"] == [])


def test_a_nic_is_found_by_its_mac_whatever_its_name_is(nics: Host, daemon: MakeDaemon) -> None:
    nics.rtnl.set("eth1", address="00:16:3e:00:00:77")
    config = STAND_IN + '[nic.lan]\nmac = "00:16:3E:00:00:77"\nmtu = 1400\n[bridge.xenbr0]\nports = ["lan"]\n'
    xennetd = daemon(config)
    assert "ip link set eth1 master xenbr0" in apply(xennetd)
    assert nics.links()["eth1"]["mtu"] == 1400
    xennetd.terminate()
    nics.run("ip", "link", "delete", "xenbr0")
    nics.run("ip", "link", "set", "eth1", "down")
    nics.run("ip", "link", "set", "eth1", "name", "enp3s0")
    xennetd.start()
    assert nics.links()["enp3s0"]["master"] == "xenbr0"


def test_drift_is_repaired_recorded_and_a_fight_is_slow(nics: Host, daemon: MakeDaemon, journal: Journal) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    nics.run("ip", "link", "set", "eth0", "nomaster")
    eventually(lambda: nics.links()["eth0"].get("master") == "xenbr0")
    nics.run("ip", "link", "delete", "xenbr1")
    eventually(lambda: nics.links().get("eth1", {}).get("master") == "xenbr1")
    messages = eventually(
        lambda: [entry["MESSAGE"] for entry in journal.entries if entry.get("XENNET_EVENT") == "drift"]
    )
    assert any("ip link set eth0 master xenbr0" in message for message in messages)
    used, began = xennetd.cpu(), time.monotonic()
    while not any("changed back after each repair" in problem for problem in status(xennetd)["problems"]):
        for _ in range(20):
            nics.run("ip", "link", "set", "eth0", "nomaster")
        assert time.monotonic() - began < 20
    assert xennetd.cpu() - used < (time.monotonic() - began) / 2
    eventually(lambda: nics.links()["eth0"].get("master") == "xenbr0")


def test_observing_changes_nothing_and_says_what_is_missing(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    xennetd.terminate()
    nics.run("ip", "link", "delete", "xenbr1")
    before = shape(nics)
    observer = daemon(STAND_IN + TWO_BRIDGES, arguments=["--observe"])
    assert shape(nics) == before
    assert any(
        "in enforce mode xennetd would do this: ip link add xenbr1" in note for note in status(observer)["notes"]
    )
    assert "only observes" in observer.ctl("apply").stdout


@pytest.mark.parametrize(
    "spoil",
    [lambda text: text[:-20], lambda text: text.replace("eth0", "eth9"), lambda text: "", lambda text: "\x00" * 300],
    ids=["cut off", "edited", "empty", "zeroes"],
)
def test_a_damaged_file_is_told_and_the_host_stays_as_it_is(
    nics: Host, daemon: MakeDaemon, spoil: Callable[[str], str]
) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    xennetd.terminate()
    before = shape(nics)
    FILE.write_text(spoil(FILE.read_text()))
    xennetd.start()
    (problem,) = status(xennetd)["problems"]
    assert problem.startswith(f"{FILE} is damaged")
    assert shape(nics) == before
    apply(xennetd)
    assert (shape(nics), status(xennetd)["problems"]) == (before, [])


def test_a_disk_that_takes_no_file_has_nothing_applied(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    before = shape(nics)
    nics.run("mount", "--bind", "/var/lib/xennetd", "/var/lib/xennetd")
    nics.run("mount", "-o", "remount,bind,ro", "/var/lib/xennetd")
    refused = xennetd.ctl("apply")
    assert (refused.returncode, "Read-only file system" in refused.stderr) == (1, True)
    assert shape(nics) == before


def test_a_bridge_with_guests_stays_until_they_have_left(nics: Host, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    web = guest("web", VifSpec(bridge="xenbr1"))
    web.connect()
    xennetd.configure(STAND_IN)
    before = shape(nics)
    _, _, (problem,) = plan(xennetd)
    assert problem == f'"xenbr1" can\'t go while guests are on it: {web.vif.netdev}'
    assert (xennetd.ctl("apply").returncode, shape(nics)) == (1, before)
    web.detach()
    apply(xennetd)
    assert "xenbr1" not in nics.links()


def test_only_root_may_plan_and_apply(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    xennetd.control.chmod(0o666)
    for verb in ("plan", "apply"):
        command = [*xennetd.command("xennetd.cli.main"), "--control", str(xennetd.control), verb]
        refused = nics.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command, check=False)
        assert (refused.returncode, "only root may do this" in refused.stderr) == (1, True), refused


def test_a_guest_that_lowers_its_mtu_lowers_nobody_elses(nics: Host, guest: MakeGuest, daemon: MakeDaemon) -> None:
    """As netback does for a frontend without scatter-gather."""
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    web, mail = guest("web", VifSpec(bridge="xenbr1")), guest("mail", VifSpec(bridge="xenbr1"))
    web.connect()
    nics.rtnl.set(web.vif.netdev, mtu=1300)
    mail.connect()
    links = nics.links()
    mtus = {name: links[name]["mtu"] for name in ("xenbr1", "eth1", web.vif.netdev, mail.vif.netdev)}
    assert mtus == {"xenbr1": 1500, "eth1": 1500, web.vif.netdev: 1300, mail.vif.netdev: 1500}
    nics.rtnl.set(web.vif.netdev, mtu=1500)
    assert nics.links()[web.vif.netdev]["mtu"] == 1500
    assert plan(xennetd) == (0, [], [])


def test_the_mtu_of_a_nic_decides_that_of_its_bridge(nics: Host, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES + "[nic.eth0]\nmtu = 9000\n")
    apply(xennetd)
    links = nics.links()
    assert (links["eth0"]["mtu"], links["xenbr0"]["mtu"], links["xenbr1"]["mtu"]) == (9000, 9000, 1500)
    xennetd.configure(STAND_IN + TWO_BRIDGES + "[nic.eth0]\nmtu = 1400\n")
    apply(xennetd)
    assert nics.links()["xenbr0"]["mtu"] == 1400


def test_an_mtu_that_a_port_can_not_send_is_refused_and_nothing_is_changed(nics: Host, daemon: MakeDaemon) -> None:
    before = shape(nics)
    xennetd = daemon(STAND_IN + TWO_BRIDGES.replace("[bridge.xenbr1]", "[bridge.xenbr1]\nmtu = 9000"))
    why = "xenbr1 can't have an MTU of 9000, since eth1 has 1500: give that link more, or leave out the mtu of xenbr1"
    code, _, problems = plan(xennetd)
    assert (code, problems) == (1, [why])
    assert xennetd.ctl("apply").returncode == 1
    assert shape(nics) == before


def test_the_picture_shows_what_is_built_on_what(nics: Host, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    web = guest("web", VifSpec(bridge="xenbr1"))
    web.connect()
    assert xennetd.ctl("topology").stdout.splitlines() == [
        "eth0          nic     10 Gbit/s",
        "└─ xenbr0     bridge  10.0.0.254/24  fd00::254/64",
        "eth1          nic     10 Gbit/s",
        "└─ xenbr1     bridge",
        f"   └─ {web.vif.netdev}  web     connected",
    ]


def test_the_picture_shows_what_carries_nothing(nics: Host, guest: MakeGuest, daemon: MakeDaemon) -> None:
    xennetd = daemon(STAND_IN + TWO_BRIDGES)
    apply(xennetd)
    web = guest("web", VifSpec(bridge="xenbr1"))
    web.connect()
    (beyond,) = (each for each in nics._guests if each.name == "beyond0")
    for machine in (web.namespace, beyond):
        machine.rtnl.set("eth0", up=False)

    def speeds() -> dict[str, int | None]:
        return {each["name"]: each["speed"] for each in json.loads(xennetd.ctl("topology", "--format", "json").stdout)}

    without_carrier = {"eth0": None, "eth1": 10_000, "xenbr0": None, "xenbr1": None, web.vif.netdev: None}
    eventually(lambda: speeds() == without_carrier)
    lines = xennetd.ctl("topology").stdout.splitlines()
    assert lines[0] == "eth0          nic     no carrier"
    assert lines[-1] == f"   └─ {web.vif.netdev}  web     connected  no carrier"


def test_an_import_says_what_is_there_and_its_apply_changes_nothing(
    nics: Host, guest: MakeGuest, daemon: MakeDaemon
) -> None:
    nics.bridge("xenbr0", address="10.0.0.254/24")
    for name in ("eth0", "eth1"):
        nics.rtnl.set(name, up=True)
    nics.rtnl.set("eth0", master="xenbr0")
    nics.run("ip", "link", "add", "b2", "up", "type", "bridge", "stp_state", "1", "mcast_snooping", "0")
    nics.run("ip", "link", "set", "b2", "type", "bridge", "forward_delay", "400")
    nics.rtnl.set("eth1", master="b2", mtu=1400)
    xennetd = daemon(STAND_IN + '[network.lab]\nmode = "isolated"\n')
    guest("web").connect()
    before = shape(nics)
    imported = xennetd.ctl("import").stdout
    assert imported == (
        '[bridge.b2]\nports = ["eth1"]\nforward_delay = 4\nmulticast_snooping = false\nstp = true\nmtu = 1400\n\n'
        '[bridge.xenbr0]\nports = ["eth0"]\nforward_delay = 15\nmtu = 1500\n'
        "# has 10.0.0.254/24, which stay with whoever gave them\n"
    )
    xennetd.configure(STAND_IN + '[network.lab]\nmode = "isolated"\n' + imported)
    assert plan(xennetd) == (0, [], [])
    assert apply(xennetd) == []
    assert shape(nics) == before
    xennetd.configure(STAND_IN + '[bridge.b2]\naddresses = ["10.9.0.1/24"]\n[bridge.b3]\naddresses = []\n')
    apply(xennetd)
    imported = xennetd.ctl("import").stdout
    assert 'addresses = ["10.9.0.1/24"]' in imported
    assert "addresses = []" in imported
    xennetd.configure(STAND_IN + imported)
    assert plan(xennetd) == (0, [], [])
