"""What the real journald keeps of the audit trail, and what journalctl -x makes of it."""

from __future__ import annotations

from collections.abc import Callable

from tests.bed.guest import Guest
from tests.bed.toolstack import VifSpec
from tests.vm.machine import Journal, Machine, do, run, until

MakeGuest = Callable[..., Guest]


def test_an_attach_is_one_entry_with_all_its_fields(host: Machine, guest: MakeGuest, journal: Journal) -> None:
    host.bridge("br0")
    web = guest("web", VifSpec(bridge="br0", ip="10.8.0.1", mac="00:16:3e:00:00:01"))
    web.connect()
    until(lambda: journal.entries("XENNET_EVENT=attach"))
    (entry,) = journal.entries("XENNET_EVENT=attach")
    told = {key.removeprefix("XENNET_"): value for key, value in entry.items() if key.startswith("XENNET_")}
    assert int(told.pop("DURATION_US")) > 0
    assert told == {
        "EVENT": "attach",
        "VIF": web.vif.netdev,
        "DOMID": str(web.domain.domid),
        "DEVID": "0",
        "VM": "web",
        "UUID": web.domain.uuid,
        "MAC": "00:16:3e:00:00:01",
        "IPS": "10.8.0.1",
        "BRIDGE": "br0",
    }
    assert entry["MESSAGE_ID"] == "17cfb1a3a61447ed8c9f4b9282ea61ea"
    assert entry["MESSAGE"].startswith(f"{web.vif.netdev} of web attached to br0 in ")
    assert (entry["SYSLOG_IDENTIFIER"], entry["_COMM"]) == ("xennetd", "xennetd")


def test_the_catalog_explains_an_error(host: Machine, guest: MakeGuest, journal: Journal) -> None:
    web = guest("web", VifSpec(bridge="nowhere"))
    until(lambda: journal.entries("XENNET_EVENT=error"))
    shown = do(
        "journalctl",
        "-q",
        "-x",
        "--no-pager",
        f"--since=@{journal.start // 1_000_000}",
        "-u",
        "xennetd",
        "XENNET_EVENT=error",
    )
    assert "Subject: A guest's interface could not be attached" in shown
    assert f"The interface {web.vif.netdev} has no network." in shown
    assert "Documentation: man:xennetd(8)" in shown


def test_every_kind_of_event_is_in_the_catalog() -> None:
    listed = do("journalctl", "--list-catalog", "--no-pager")
    assert (
        sum("xennetd" in line for line in do("journalctl", "--dump-catalog").splitlines() if "Defined-By" in line) >= 11
    )
    assert "17cfb1a3a61447ed8c9f4b9282ea61ea" in listed


def test_the_man_pages_that_the_catalog_names_are_there() -> None:
    for page in ("xennetd", "xennetctl"):
        assert run("man", "--where", "8", page).returncode == 0


def test_a_restarted_journald_gets_what_comes_after(host: Machine, guest: MakeGuest, journal: Journal) -> None:
    host.bridge("br0")
    do("systemctl", "restart", "systemd-journald")
    guest("after", VifSpec(bridge="br0")).connect()
    until(lambda: journal.entries("XENNET_VM=after", "XENNET_EVENT=attach"))
