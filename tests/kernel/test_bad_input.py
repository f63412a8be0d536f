"""What goes wrong on the host around a vif: names taken, bridges full, things that vanish half-way, a bad policy."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.bed.guest import Bed
from tests.bed.netback import altname
from tests.bed.systemd import Journal
from tests.bed.toolstack import VifSpec
from tests.kernel.conftest import Bystander, MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually

RESTART_PREVENTED = 78
"""RestartPreventExitStatus= of the unit: systemd need not try again what only an administrator can cure."""


def test_what_the_guest_can_read_names_nobody_else(bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
    # given: another guest has the name already
    bed.host.bridge("xenbr0")
    xennetd = daemon()
    secret = guest("secret", VifSpec(vifname="lan"), domid=77)
    connected(bed, secret.vif)
    told = refused(bed, guest("curious", VifSpec(vifname="lan")).vif)
    assert "secret" not in told
    assert "77" not in told
    assert "vif77.0" in xennetd.ask("show", "curious")["error"]


class TestAFullBridge:
    """A Linux bridge takes 1,023 ports."""

    def test_refuses_one_more_and_takes_it_when_there_is_room(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        # given
        bed.host.bridge("xenbr0")
        crowd = bed.host.guest("crowd")
        names = [f"port{number}" for number in range(1023)]
        bed.host.rtnl.add_veths([(name, f"far{name}", None, None) for name in names], crowd.fd)
        for name in names:
            bed.host.rtnl.set(name, master="xenbr0")
        daemon()

        # when, then
        web = guest("web")
        assert refused(bed, web.vif) == 'bridge "xenbr0" is full: a Linux bridge takes 1,023 ports'
        assert "UP" not in bed.host.links()[web.vif.netdev]["flags"]
        journal.wait_for(XENNET_EVENT="error", XENNET_VIF=web.vif.netdev)

        # and
        bed.host.rtnl.set("port5", master="")
        connected(bed, web.vif)


class TestVanishing:
    """What was there at the last look is gone at the next step."""

    def test_a_directory_that_goes_before_the_verdict_is_not_made_again(
        self, bed: Bed, daemon: MakeDaemon, journal: Journal, settle: Callable[[], None]
    ) -> None:
        # given: everything is told in one moment, so the daemon acts on what is there no more
        bed.host.bridge("xenbr0")
        daemon()
        settle()
        guest = bed.host.guest("web")
        for number in range(50):
            vif = bed.toolstack.add_vif(bed.toolstack.create_domain(f"web-{number}"))
            bed.netback.create(vif, guest, f"eth{number}")
            bed.netback.probe(vif)
            wait(random.Random(number).uniform(0, 0.004))
            bed.toolstack.forget_vif(vif)
        settle()
        assert bed.toolstack.xs.ls("/local/domain/0/backend/vif") == ["32000"]
        assert not [fields for fields in journal.entries if "EXCEPTION_TEXT" in fields]

    def test_a_link_that_goes_between_two_steps_is_no_error(
        self, bed: Bed, daemon: MakeDaemon, journal: Journal, bystander: Bystander, settle: Callable[[], None]
    ) -> None:
        xennetd = daemon()
        bystander.connect()
        guest = bed.host.guest("web")
        vifs = [bed.toolstack.add_vif(bed.toolstack.create_domain(f"web-{n}"), VifSpec(mtu=1400)) for n in range(50)]
        for vif in vifs:
            bed.netback.probe(vif)
        settle()
        for number, vif in enumerate(vifs):
            bed.netback.create(vif, guest, f"eth{number}")
            wait(random.Random(number).uniform(0, 0.002))
            bed.host.rtnl.delete(altname(vif))
        settle()
        states = {row["vif"]: row["state"] for row in xennetd.ask("list")}
        assert {states[vif.netdev] for vif in vifs} == {"pending"}
        assert not journal.having(XENNET_EVENT="error")
        assert not [fields for fields in journal.entries if "EXCEPTION_TEXT" in fields]
        assert bystander.is_undisturbed()

        # and: each is attached all the same when it has a link again
        for number, vif in enumerate(vifs):
            bed.toolstack.xs.write(f"{vif.backend}/hotplug-status", "")
            bed.netback.create(vif, guest, f"again{number}")
        for vif in vifs:
            connected(bed, vif)

    def test_a_bridge_that_goes_and_comes_all_the_time_ends_well(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, journal: Journal
    ) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        web = guest("web", address="10.0.0.1/24")
        for number in range(30):
            bed.host.rtnl.delete("xenbr0")
            wait(random.Random(number).uniform(0, 0.003))
            bed.host.bridge("xenbr0")
        bed.host.rtnl.add_address("xenbr0", "10.0.0.254/24")
        web.connect()
        eventually(lambda: web.namespace.ping("10.0.0.254", wait=0.2))
        assert not [fields for fields in journal.entries if "EXCEPTION_TEXT" in fields]


def wait(seconds: float) -> None:
    """Not sleep(), which can't be this short here."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_bad_configuration_is_named_and_no_daemon_starts(bed: Bed, daemon: MakeDaemon) -> None:
    bad = '[network.lan]\nmode = "brigde"\nbridge = "xenbr0"\n[[policy]]\nnetwork = "lna"\n'
    for arguments, status in ((["--check"], 1), ([], RESTART_PREVENTED)):
        xennetd = daemon(bad, ready=False, arguments=arguments)
        assert xennetd.wait() == status
        problems = xennetd.stderr().splitlines()
        assert "xennetd.toml:2: network.lan.mode" in problems[0]
        assert "xennetd.toml:5: policy[1].network" in problems[1]
        assert "lan" in problems[1]


def test_a_good_configuration_passes_the_check(bed: Bed, daemon: MakeDaemon) -> None:
    xennetd = daemon('[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n', ready=False, arguments=["--check"])
    assert (xennetd.wait(), "error" in xennetd.stderr()) == (0, False)
