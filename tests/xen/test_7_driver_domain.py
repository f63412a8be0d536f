"""A guest whose interfaces a driver domain serves, where xennetd does the work of `xl devd` over the kernel's device.

The driver domain is booted once, which takes a minute, and `web` runs behind it. xl waits 10 s for a backend directory
to disappear before it goes on without that: what is removed in less was removed by xennetd.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.xen.driver_domain import DriverDomain
from tests.xen.toolstack import BOOT_ADDRESS, Guest, answers, do, node, nodes, ping, row, run, until, xenstore
from tests.xen.traffic import Pings

PATIENCE = 10.0  # libxl's LIBXL_DESTROY_TIMEOUT


@pytest.fixture(scope="module")
def netdom() -> Iterator[DriverDomain]:
    netdom = DriverDomain()
    yield netdom.boot()
    netdom.destroy()


@pytest.fixture(scope="module")
def web(netdom: DriverDomain) -> Iterator[Guest]:
    web = netdom.guest("web").create()
    yield web
    web.destroy()


def attach(netdom: DriverDomain, web: Guest, *words: str) -> None:
    """`xl network-attach` of the second interface."""
    do("xl", "network-attach", web.name, f"mac={web.mac(1)}", f"backend={netdom.name}", *words)


def detach(web: Guest) -> float:
    """`xl network-detach` of the second interface; returns how long it took."""
    detached = run("xl", "network-detach", web.name, "1")
    assert detached.status == 0, detached.output
    assert nodes(f"/local/domain/{web.backend_domid}/backend/vif/{web.domid}/1") == {}
    assert nodes(f"/libxl/{web.domid}/device/vif/1") == {}
    print(f"xl network-detach from a driver domain: {detached.seconds:.1f} s")
    return detached.seconds


def test_xennetd_speaks_through_the_kernels_device(netdom: DriverDomain) -> None:
    status = netdom.status()
    assert (status["ready"], status["domid"], status["xenstore"]) == (
        True,
        netdom.domid,
        "connected to /dev/xen/xenbus",
    )
    assert status["problems"] == []
    opened = netdom.run("readlink /proc/$(systemctl show --value --property=MainPID xennetd)/fd/*")
    assert "/dev/xen/xenbus" in opened.split()


def test_a_guests_interface_is_connected_in_the_driver_domain(netdom: DriverDomain, web: Guest) -> None:
    web.connected(timeout=90.0)
    assert web.backend("hotplug-status") == "connected"
    assert netdom.master(web.vif()) == "xenbr0"
    listed = netdom.row(web.vif())
    assert listed is not None
    assert (listed["state"], listed["bridge"], listed["mac"]) == ("connected", "xenbr0", web.mac())
    assert listed["vm"] is None, "a driver domain may not read a guest's name"
    assert row(web.vif()) is None, "dom0 has nothing to do with it"


def test_guest_and_driver_domain_reach_each_other(netdom: DriverDomain, web: Guest) -> None:
    answers(web.address)  # it has booted
    assert "5 packets received" in web.run(f"ping -c 5 -i 0.2 {netdom.address}")
    assert " 5 received" in netdom.run(f"ping -n -q -c 5 -i 0.2 {web.address}")


def test_a_guest_reaches_the_world_through_the_driver_domains_uplink(web: Guest) -> None:
    assert "5 packets received" in web.run(f"ping -c 5 -i 0.2 {BOOT_ADDRESS}")
    assert ping(web.address, count=5) == 5


def test_no_ping_is_lost_while_the_daemon_is_killed_and_comes_back(netdom: DriverDomain, web: Guest) -> None:
    before = netdom.run(f"cat /sys/class/net/{web.vif()}/ifindex /sys/class/net/{web.vif()}/carrier_changes")
    with Pings(web, netdom.address) as pings:
        pings.mark("killed")
        netdom.run(
            "pid() { systemctl show --value --property=MainPID xennetd; }; old=$(pid); systemctl kill -s KILL xennetd; "
            "until [ $(pid) != $old ] && systemctl -q is-active xennetd; do sleep 0.5; done"
        )
        pings.mark("ready")
    assert pings.answered_between("killed", "ready") > 20, str(pings)
    assert pings.lost == 0, str(pings)
    assert before == netdom.run(f"cat /sys/class/net/{web.vif()}/ifindex /sys/class/net/{web.vif()}/carrier_changes")
    listed = netdom.row(web.vif())
    assert listed is not None
    assert listed["state"] == "connected"
    assert netdom.events(web.vif()) == ["attach"], "a restart is no event in a guest's life"


def test_network_detach_does_not_wait_for_xl_to_give_up(netdom: DriverDomain, web: Guest) -> None:
    attach(netdom, web, "bridge=xenbr0", "mtu=1400")
    web.connected(1)
    assert netdom.mtu(web.vif(1)) == 1400
    # Owned by the driver domain, as libxl made it: it may write that one node of the guest's directory.
    assert node(f"/local/domain/{web.domid}/device/vif/1/mtu") == "1400"
    assert detach(web) < PATIENCE
    netdom.tells(web.vif(1), "attach", "detach")


def test_a_bridge_that_does_not_exist_is_named_in_the_backend_directory(netdom: DriverDomain, web: Guest) -> None:
    attach(netdom, web, "bridge=xenbr7")  # xl does not look at hotplug-status of another domain's backend
    with xenstore() as xs:
        xs.until(f"/local/domain/{netdom.domid}/backend/vif/{web.domid}/1/hotplug-status", "error", 30.0)
    assert 'bridge "xenbr7"' in str(web.backend("hotplug-error", 1))
    assert web.backend("state", 1) == "2"
    netdom.tells(web.vif(1), "attach", "detach", "error")


def test_the_interface_is_attached_once_its_bridge_is_there(netdom: DriverDomain, web: Guest) -> None:
    netdom.run("ip link add xenbr7 type bridge")
    web.connected(1)
    assert netdom.master(web.vif(1)) == "xenbr7"
    assert web.backend("hotplug-error", 1) is None
    assert detach(web) < PATIENCE


def test_destroy_does_not_wait_for_xl_to_give_up_and_leaves_nothing(netdom: DriverDomain, web: Guest) -> None:
    destroyed = run("xl", "destroy", web.name)
    assert destroyed.status == 0, destroyed.output
    print(f"xl destroy of a guest behind a driver domain: {destroyed.seconds:.1f} s")
    assert destroyed.seconds < PATIENCE
    assert web.remains() == {}
    assert nodes(f"/libxl/{web.domid}") == {}
    assert node(f"/local/domain/{netdom.domid}/backend/vif/{web.domid}") is None
    until(lambda: netdom.row(web.vif()) is None)
    assert web.vif() not in netdom.run("ls /sys/class/net").split()
    netdom.tells(web.vif(), "attach", "detach")


def test_xenstore_refused_nothing_and_was_never_lost(netdom: DriverDomain) -> None:
    """As it does when requests overtake each other in the device's one buffer."""
    assert netdom.status()["xenstore_reconnects"] == 0
    journal = netdom.run("journalctl --quiet --unit=xennetd --output=cat")
    assert "refused" not in journal
    assert "can't be followed" not in journal
    assert "Traceback" not in journal
