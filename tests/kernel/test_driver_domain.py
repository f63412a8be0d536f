"""xennetd in a driver domain, in the place of `xl devd`: xenstored over a ring, no privileges, default quotas."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.netback import Netback
from tests.bed.systemd import Journal
from tests.bed.toolstack import Domain, VifSpec
from tests.bed.xs import Xs
from tests.kernel.conftest import MakeDaemon, MakeGuest, both_stores
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually
from xennetd.daemon.main import EXIT_CONFIGURATION

DEVD = STAND_IN + "devd = true\n"

Run = Callable[[str], Daemon]


@pytest.fixture
def netdom(bed: Bed) -> Domain:
    """The driver domain; from here on netback runs in it."""
    domain = bed.toolstack.create_domain("netdom", domid=5)
    # What libxl makes for a `driver_domain = 1`, writable for the domain itself.
    bed.toolstack.xs.mkdir(f"{domain.path}/backend")
    bed.toolstack.xs.set_perms(f"{domain.path}/backend", "n5")
    bed.netback.xs.close()
    bed.netback = Netback(bed.xenstored, bed.host, Xs(bed.xenstored.domain_socket(5)))
    bed.host.bridge("xenbr0", address="10.0.0.254/24")
    return domain


@pytest.fixture
def run(netdom: Domain, bed: Bed, daemon: MakeDaemon) -> Run:
    return lambda config: daemon(config, xenstored_path=bed.xenstored.domain_socket(5))


def in_netdom(**keys: Any) -> VifSpec:
    return VifSpec(backend_domid=5, **keys)


def test_a_guest_is_attached_without_a_name(bed: Bed, guest: MakeGuest, run: Run, journal: Journal) -> None:
    xennetd = run(DEVD)
    web = guest("web", in_netdom(mtu=1400), address="10.0.0.1/24")
    web.connect()
    eventually(lambda: web.namespace.ping("10.0.0.254", wait=0.2))
    row = xennetd.ask("show", web.vif.netdev)
    assert (row["state"], row["vm"], row["uuid"], row["bridge"]) == ("connected", None, None, "xenbr0")
    entry = journal.wait_for(XENNET_EVENT="attach", XENNET_VIF=web.vif.netdev)
    assert entry["MESSAGE"].startswith(f"{web.vif.netdev} attached to xenbr0")
    assert "XENNET_VM" not in entry
    assert bed.toolstack.xs.read(f"{web.vif.frontend}/mtu") == "1400"


def test_an_error_reaches_the_toolstack(bed: Bed, guest: MakeGuest, run: Run) -> None:
    run(DEVD)
    assert refused(bed, guest("web", in_netdom(bridge="nowhere")).vif).startswith('bridge "nowhere" does not exist')


@both_stores
def test_a_removed_vifs_directory_is_deleted_as_libxl_waits_for_it(
    bed: Bed, guest: MakeGuest, run: Run, journal: Journal
) -> None:
    run(DEVD)
    web, other = guest("web", in_netdom()), guest("other", in_netdom())
    web.connect()
    other.connect()

    bed.toolstack.detach_vif(web.vif)
    journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=web.vif.netdev)
    assert bed.toolstack.xs.exists(web.vif.backend)  # not before the driver has closed it
    bed.netfront.close(web.vif, web.namespace)
    bed.netback.xs.write(f"{web.vif.backend}/state", "6")
    bed.toolstack.xs.until(web.vif.backend, None)

    # Only the leaf is ours to delete, the toolstack does the rest.
    assert bed.toolstack.xs.exists(f"/local/domain/5/backend/vif/{web.vif.domid}")
    assert other.hotplug_status() == "connected"
    bed.netback.destroy(web.vif)
    bed.toolstack.forget_vif(web.vif)


def test_a_guest_that_closes_and_comes_back_keeps_its_directory(
    bed: Bed, guest: MakeGuest, run: Run, settle_in: Callable[[], None]
) -> None:
    run(DEVD)
    web = guest("web", in_netdom())
    web.connect()
    bed.netback.disconnect(web.vif, forget_hotplug_status=True)
    settle_in()
    assert bed.toolstack.xs.exists(web.vif.backend)
    bed.netback.prepare(web.vif)
    web.connect()


@pytest.fixture
def settle_in(bed: Bed, netdom: Domain) -> Callable[[], None]:
    """As `settle`, but for guests of the driver domain."""
    fence = Guest(bed, "fence", in_netdom(), domid=32000)

    def settle() -> None:
        connected(bed, fence.vif)
        bed.netback.xs.rm(f"{fence.vif.backend}/hotplug-status")
        connected(bed, fence.vif)

    return settle


def test_without_devd_the_directory_is_left_to_xl_devd(
    bed: Bed, guest: MakeGuest, run: Run, settle_in: Callable[[], None]
) -> None:
    run(STAND_IN)
    web = guest("web", in_netdom())
    web.connect()
    bed.toolstack.detach_vif(web.vif)
    bed.netback.xs.write(f"{web.vif.backend}/state", "6")
    settle_in()
    assert bed.toolstack.xs.exists(web.vif.backend)


@both_stores
def test_many_guests_fit_into_the_default_quotas(bed: Bed, guest: MakeGuest, run: Run) -> None:
    # 128 watches, 20 requests at once, 10 transactions: for all of the driver domain, its kernel included
    guests = [guest(f"web-{number}", in_netdom()) for number in range(15)]
    xennetd = run(DEVD)
    guests += [guest(f"more-{number}", in_netdom()) for number in range(15)]
    for each in guests:
        connected(bed, each.vif)
    assert {row["state"] for row in xennetd.ask("list")} == {"connected"}


@pytest.mark.parametrize("condition", ['vm = "web-*"', 'uuid = "*"'])
def test_a_policy_on_names_is_refused_there(bed: Bed, netdom: Domain, daemon: MakeDaemon, condition: str) -> None:
    policy = DEVD + f'[[policy]]\nname = "web tier"\nmatch = {{ {condition} }}\ndeny = "no"\n'
    for arguments, status in ((["--check"], 1), ([], EXIT_CONFIGURATION)):
        xennetd = daemon(policy, ready=False, arguments=arguments, xenstored_path=bed.xenstored.domain_socket(5))
        assert xennetd.wait() == status
        assert f"policy[1].match.{condition.split()[0]}: can't be read in a driver domain" in xennetd.stderr()


def test_it_does_not_start_while_xl_devd_serves_the_same_backends(bed: Bed, netdom: Domain, daemon: MakeDaemon) -> None:
    path = bed.xenstored.domain_socket(5)
    command = ["/usr/sbin/xl", "-c", "read line", "devd"]
    with subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE) as xl:
        for arguments, status in ((["--check"], 1), ([], EXIT_CONFIGURATION)):
            xennetd = daemon(DEVD, ready=False, arguments=arguments, xenstored_path=path)
            assert xennetd.wait() == status
            assert "xl devd" in xennetd.stderr()
        xl.communicate(b"\n")
    daemon(DEVD, xenstored_path=path)


@both_stores
def test_a_verdict_that_xenstored_refuses_leaves_no_port_in_its_bridge(
    bed: Bed, guest: MakeGuest, run: Run, journal: Journal
) -> None:
    web, other = guest("web", in_netdom()), guest("other", in_netdom())
    status = f"{web.vif.backend}/hotplug-status"
    bed.toolstack.xs.set_perms(status, "n0", "r5")
    xennetd = run(DEVD)
    told = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=web.vif.netdev)
    link = bed.host.links()[web.vif.netdev]
    assert "master" not in link
    assert "UP" not in link["flags"]
    assert "xenstore refused a request" in told["XENNET_ERROR"]
    connected(bed, other.vif)
    assert bed.toolstack.xs.read(status) == ""

    bed.toolstack.xs.set_perms(status, "n5", f"r{web.domain.domid}")
    connected(bed, web.vif)
    assert bed.host.links()[web.vif.netdev]["master"] == "xenbr0"
    assert xennetd.ask("show", web.vif.netdev)["state"] == "connected"


@pytest.mark.parametrize("tap_comes", ["before the daemon", "after the vif is connected"])
def test_a_guest_has_its_pv_network_where_xenstored_refuses_its_taps_node(
    bed: Bed, guest: MakeGuest, run: Run, journal: Journal, tap_comes: str
) -> None:
    # given: the domain may write the nodes that libxl made, but may not make one
    web = guest("web", in_netdom(type="vif_ioemu"))
    first = tap_comes == "before the daemon"
    if not first:
        xennetd = run(DEVD)
        connected(bed, web.vif)
    bed.toolstack.xs.set_perms(web.vif.backend, "n0", "r5")
    bed.host.tap(web.vif.tap)
    if first:
        xennetd = run(DEVD)

    # then: the tap's error is the tap's alone, and told once
    told = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=web.vif.netdev)
    assert told["MESSAGE"].startswith(f"the tap of {web.vif.netdev} gets no network: xenstore refused a request for")
    connected(bed, web.vif)
    row = xennetd.ask("show", web.vif.netdev)
    assert (row["state"], row["error"]) == ("connected", None)
    assert row["tap"].startswith("error: xenstore refused a request for")
    links = bed.host.links()
    assert links[web.vif.netdev]["master"] == "xenbr0"
    assert "UP" in links[web.vif.netdev]["flags"]
    assert "master" not in links[web.vif.tap]
    assert "UP" not in links[web.vif.tap]["flags"]

    # and: it is tried again
    bed.toolstack.xs.set_perms(web.vif.backend, "n5", f"r{web.domain.domid}")
    bed.toolstack.xs.until(f"{web.vif.backend}/xennetd-tap", "connected", 5.0)
    assert bed.host.links()[web.vif.tap]["master"] == "xenbr0"
    assert xennetd.ask("show", web.vif.netdev)["tap"] == "connected"
    assert len(journal.having(XENNET_EVENT="error", XENNET_VIF=web.vif.netdev)) == 1
