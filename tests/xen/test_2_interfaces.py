"""`xl create` with what a vif= line can say, and interfaces that come and go while the guest runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.xen.toolstack import BOOT_ADDRESS, Guest, Trail, answers, do, links, master, node, ping, row, until

PLAIN, SECOND, RENAMED, SMALL, NOWHERE = range(5)


@pytest.fixture(scope="module")
def many() -> Iterator[Guest]:
    """A guest with an interface of each kind; the module's tests look at it from all sides."""
    many = Guest(
        "many",
        ("bridge=xenbr0", "bridge=xenbr1", "bridge=xenbr1, vifname=many-dmz", "bridge=xenbr0, mtu=1400", ""),
        addresses=["10.9.1.20"],
    )
    many.create()
    many.up()
    yield many
    many.destroy()


@pytest.mark.parametrize("devid", [PLAIN, SECOND])
def test_the_backend_reaches_state_4(many: Guest, devid: int) -> None:
    many.connected(devid)
    assert many.backend("hotplug-status", devid) == "connected"
    assert many.backend("hotplug-error", devid) is None


def test_two_vifs_are_on_two_bridges(many: Guest) -> None:
    assert (master(many.vif(PLAIN)), master(many.vif(SECOND))) == ("xenbr0", "xenbr1")


def test_host_and_guest_reach_each_other(many: Guest) -> None:
    answers(many.address)
    assert ping(many.address, count=5) == 5
    assert "3 packets received" in many.run("ping -c 3 10.9.0.254")


def test_the_second_bridge_carries_traffic_too(many: Guest) -> None:
    answers("10.9.1.20")
    assert ping("10.9.1.20", count=5) == 5


def test_guest_and_guest_reach_each_other(many: Guest) -> None:
    assert "5 packets received" in many.run(f"ping -c 5 -i 0.2 {BOOT_ADDRESS}")


def test_a_port_has_the_stock_address_and_no_addresses_of_its_own(many: Guest) -> None:
    assert links()[many.vif()]["address"] == "fe:ff:ff:ff:ff:ff"
    assert "inet" not in do("ip", "address", "show", "dev", many.vif())


def test_vifname_renames_the_link(many: Guest) -> None:
    link = links()["many-dmz"]
    assert (link["parentdev"], link["master"]) == (f"vif-{many.domid}-{RENAMED}", "xenbr1")
    assert many.vif(RENAMED) not in links()
    listed = row(many.vif(RENAMED))
    assert listed is not None
    assert (listed["link"], listed["state"]) == ("many-dmz", "connected")


def test_mtu_reaches_the_link_and_the_guest_and_no_other_port(many: Guest) -> None:
    found = links()
    assert found[many.vif(SMALL)]["mtu"] == 1400
    assert node(f"/local/domain/{many.domid}/device/vif/{SMALL}/mtu") == "1400"
    assert found[many.vif(PLAIN)]["mtu"] == 1500


def test_a_vif_without_a_bridge_gets_xenbr0(many: Guest) -> None:
    assert master(many.vif(NOWHERE)) == "xenbr0"


def test_network_attach_and_detach(many: Guest, trail: Trail) -> None:
    do("xl", "network-attach", "many", "mac=00:16:3e:09:77:01", "bridge=xenbr1")
    vif = many.vif(5)
    many.connected(5)
    assert master(vif) == "xenbr1"
    attached = row(vif)
    assert attached is not None
    assert (attached["vm"], attached["state"], attached["bridge"]) == ("many", "connected", "xenbr1")

    do("xl", "network-detach", "many", "5")
    until(lambda: row(vif) is None)
    assert vif not in links()
    assert node(f"/local/domain/0/backend/vif/{many.domid}/5/state") is None
    assert trail.of("many") == ["attach", "detach"]


def test_the_guest_unbinds_and_binds_its_driver(many: Guest, trail: Trail) -> None:
    """The network comes back by the backend's own reconnect, without any toolstack action."""
    index = links()[many.vif()]["ifindex"]
    many.run("echo vif-0 > /sys/bus/xen/drivers/vif/unbind && sleep 1 && echo vif-0 > /sys/bus/xen/drivers/vif/bind")
    many.run(f"address 0 {many.address}/24")
    many.connected()
    answers(many.address)
    assert links()[many.vif()]["ifindex"] == index
    assert many.backend("hotplug-status") == "connected"
    assert "detach" not in trail.of("many")


def test_rubbish_in_the_frontend_directory_disturbs_nothing(many: Guest, trail: Trail) -> None:
    many.run(
        "d=device/vif/1; r=$(head -c 36000 /dev/urandom | tr -d '\\000'); "
        'for i in $(seq 40); do xenstore-write $d/rubbish-$i "${r:$((i * 850)):850}" '
        "$d/mtu 99999999 $d/script /bin/sh; done; xenstore-write $d/mac ff:ff:ff:ff:ff:ff $d/bridge lo"
    )
    assert ping(many.address, count=5) == 5
    assert ping("10.9.1.20", count=5) == 5
    listed = row(many.vif(SECOND))
    assert listed is not None
    assert (listed["state"], listed["bridge"], listed["mac"]) == ("connected", "xenbr1", many.mac(SECOND))
    assert trail.of("many") == []


def test_destroy_leaves_nothing(many: Guest, trail: Trail) -> None:
    do("xl", "destroy", "many")
    many.gone()
    assert "many-dmz" not in links()
    assert trail.of("many") == ["detach"] * 5
    assert ping(BOOT_ADDRESS, count=3) == 3
