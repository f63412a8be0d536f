"""The emulated NIC's tap, a real one, goes where its vif goes, and has a verdict of its own."""

from __future__ import annotations

from collections.abc import Callable

from tests.bed import hotplug
from tests.bed.guest import Bed
from tests.bed.netns import FE_FF
from tests.bed.news import LinkNews
from tests.bed.systemd import Journal
from tests.bed.toolstack import Vif, VifSpec
from tests.bed.xen import REPOSITORY
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused

HVM = VifSpec(type="vif_ioemu")
OURS = str(REPOSITORY / "conf" / "vif-xennetd")


def tap_verdict(bed: Bed, vif: Vif, wanted: str | Callable[[str | None], bool] | None) -> str | None:
    return bed.toolstack.xs.until(f"{vif.backend}/xennetd-tap", wanted, 5.0)


def test_the_tap_joins_its_vifs_bridge(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0", mtu=1400)
    xennetd = daemon()
    windows = guest("windows", HVM)
    bed.host.tap(windows.vif.tap)
    bed.host.rtnl.add_address(windows.vif.tap, "192.0.2.1/24")
    tap_verdict(bed, windows.vif, "connected")
    connected(bed, windows.vif)
    tap = bed.host.links()[windows.vif.tap]
    assert (tap["master"], tap["address"], tap["mtu"]) == ("xenbr0", FE_FF, 1400)
    assert "UP" in tap["flags"]
    assert bed.host.addresses(windows.vif.tap) == []
    assert xennetd.ask("show", "windows")["tap"] == "connected"


def test_an_absent_tap_does_not_delay_the_vif(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    windows = guest("windows", HVM)
    connected(bed, windows.vif)
    assert not bed.toolstack.xs.exists(f"{windows.vif.backend}/xennetd-tap")

    bed.host.tap(windows.vif.tap)
    tap_verdict(bed, windows.vif, "connected")


def test_a_tap_does_not_wait_for_the_vifs_link(bed: Bed, daemon: MakeDaemon) -> None:
    # QEMU runs before the guest's PV driver does: the vif is at state 2 without a link for a moment.
    bed.host.bridge("xenbr0")
    daemon()
    vif = bed.toolstack.add_vif(bed.toolstack.create_domain("windows"), HVM)
    bed.host.tap(vif.tap)
    bed.netback.probe(vif)
    tap_verdict(bed, vif, "connected")


def test_with_a_vifname_it_is_renamed_with_its_vif(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    windows = guest("windows", VifSpec(type="vif_ioemu", vifname="win"))
    bed.host.tap(windows.vif.tap)
    tap_verdict(bed, windows.vif, "connected")
    connected(bed, windows.vif)
    links = bed.host.links()
    assert (links["win"]["master"], links["win-emu"]["master"]) == ("xenbr0", "xenbr0")
    assert windows.vif.tap not in links

    # A restart knows it by that name.
    xennetd.kill9()
    xennetd.start()
    assert xennetd.ask("show", "win")["tap"] == "connected"


def test_qemus_going_and_coming_is_followed(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    # The emulated NIC is unplugged when the PV driver takes over, and is there again after a reset.
    bed.host.bridge("xenbr0")
    daemon()
    windows = guest("windows", HVM)
    tap = bed.host.tap(windows.vif.tap)
    tap_verdict(bed, windows.vif, "connected")
    tap.close()
    tap_verdict(bed, windows.vif, None)
    bed.host.tap(windows.vif.tap)
    tap_verdict(bed, windows.vif, "connected")
    connected(bed, windows.vif)


def test_the_script_add_waits_for_the_taps_own_verdict(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    windows = guest("windows", VifSpec(type="vif_ioemu", script=OURS))
    adding = hotplug.start(bed.xenstored, windows.vif, "add")
    connected(bed, windows.vif)
    assert adding.poll() is None
    bed.host.tap(windows.vif.tap)
    assert adding.wait(5) == 0


def test_a_taps_error_is_its_own_and_its_vif_is_connected(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
) -> None:
    # given: someone else's interface has the name that the tap must have
    bed.host.bridge("xenbr0")
    daemon()
    bed.host.rtnl.add_veth("win-emu", "eth0", bed.host.guest("other").fd)
    windows = guest("windows", VifSpec(type="vif_ioemu", vifname="win", script=OURS))
    bed.host.tap(windows.vif.tap)

    sentence = 'the interface name "win-emu" is already in use on this host'
    tap_verdict(bed, windows.vif, f"error: {sentence}")
    connected(bed, windows.vif)
    assert "UP" not in bed.host.links()[windows.vif.tap]["flags"]
    result = hotplug.run(bed.xenstored, windows.vif, "add")
    assert (result.status, sentence in result.output) == (1, True)
    record = journal.wait_for(XENNET_EVENT="error", XENNET_VIF=windows.vif.netdev)
    assert record["XENNET_ERROR"] == sentence
    assert record["MESSAGE"].startswith(f"the tap of {windows.vif.netdev} of windows gets no network: ")

    # and: it is tried again when the name is free
    bed.host.rtnl.delete("win-emu")
    tap_verdict(bed, windows.vif, "connected")


def test_a_refused_vifs_tap_is_refused_too(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    daemon()
    windows = guest("windows", VifSpec(type="vif_ioemu", bridge="nowhere"))
    bed.host.tap(windows.vif.tap)
    sentence = refused(bed, windows.vif)
    tap_verdict(bed, windows.vif, f"error: {sentence}")
    assert "UP" not in bed.host.links()[windows.vif.tap]["flags"]


def test_it_goes_down_with_its_vif(bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal) -> None:
    bed.host.bridge("xenbr0")
    daemon()
    windows = guest("windows", HVM)
    bed.host.tap(windows.vif.tap)
    tap_verdict(bed, windows.vif, "connected")
    connected(bed, windows.vif)
    bed.toolstack.detach_vif(windows.vif)
    journal.wait_for(XENNET_EVENT="detach", XENNET_VIF=windows.vif.netdev)
    tap = bed.host.links()[windows.vif.tap]
    assert "master" not in tap
    assert "UP" not in tap["flags"]


def test_a_tap_of_someone_elses_is_not_touched(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    # given: one that bears no vif's name, one of a backend that is not ours, one of no backend at all
    bed.host.bridge("xenbr0")
    daemon()
    stock = guest("stock", VifSpec(type="vif_ioemu", script="vif-bridge"))
    taps = ["tap0", stock.vif.tap, "vif900.0-emu"]
    for name in taps:
        bed.host.tap(name)
        bed.host.rtnl.set(name, up=True)
    before = bed.host.links()
    settle()
    after = bed.host.links()
    assert [after[name] for name in taps] == [before[name] for name in taps]


def test_an_older_domains_removal_leaves_the_tap_that_took_over_its_name(
    bed: Bed, guest: MakeGuest, daemon: MakeDaemon, settle: Callable[[], None]
) -> None:
    # given: a reboot of a guest with a vifname; the old domain's QEMU is gone, its vif is not yet
    bed.host.bridge("xenbr0")
    daemon()
    spec = VifSpec(type="vif_ioemu", vifname="win", mac="00:16:3e:00:00:01")
    old = guest("windows", spec)
    old_tap = bed.host.tap(old.vif.tap)
    connected(bed, old.vif)
    tap_verdict(bed, old.vif, "connected")
    bed.toolstack.detach_vif(old.vif)
    new = guest("windows", spec)
    settle()
    assert not bed.toolstack.xs.exists(f"{new.vif.backend}/xennetd-tap")

    # when: the old tap has the name still
    new_tap = bed.host.tap(new.vif.tap)
    settle()
    assert not bed.toolstack.xs.exists(f"{new.vif.backend}/xennetd-tap")
    assert "UP" not in bed.host.links()[new_tap.name]["flags"]

    # then
    index = bed.host.rtnl.index(new_tap.name)
    old_tap.close()
    tap_verdict(bed, new.vif, "connected")
    with LinkNews(bed.host) as news:
        bed.toolstack.xs.write(f"{old.vif.backend}/state", "6")
        settle()
        assert [link for link in news.drain() if link.index == index] == []
    assert bed.host.links()["win-emu"]["ifindex"] == index
