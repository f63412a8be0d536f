"""What `xl create` says when a vif can't be connected. The guests are created paused: they never get to run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xen.toolstack import Guest, Trail, do, ready, row, run

MakeGuest = Callable[..., Guest]


def test_a_bridge_that_does_not_exist_is_named_by_xl(guest: MakeGuest, trail: Trail) -> None:
    lost = guest("lost", "bridge=xenbr7")
    created = run("xl", "create", "-p", str(lost.config))
    assert created.status != 0
    assert 'bridge "xenbr7"' in created.output
    assert run("xl", "domid", "lost").status != 0, "the domain was left half-made"
    assert trail.of("lost")[:1] == ["error"]


@pytest.fixture
def deny() -> Iterator[None]:
    file = Path("/etc/xennetd/conf.d/deny.toml")
    file.write_text('[[policy]]\nname = "quarantine"\nmatch = { vm = "*-quarantine" }\ndeny = "no network for you"\n')
    do("systemctl", "reload", "xennetd")
    yield
    file.unlink()
    do("systemctl", "reload", "xennetd")


def test_a_denied_guest_is_told_the_policys_sentence(guest: MakeGuest, deny: None, trail: Trail) -> None:
    created = run("xl", "create", "-p", str(guest("x-quarantine").config))
    assert created.status != 0
    assert "no network for you" in created.output
    assert trail.of("x-quarantine")[:1] == ["denied"]


def test_a_stopped_daemon_is_named_at_once(guest: MakeGuest, daemon: None) -> None:
    web = guest("web")
    do("systemctl", "stop", "xennetd")
    attached = run("xl", "network-attach", "boot", "mac=00:16:3e:09:77:02", "bridge=xenbr0")
    assert attached.status != 0
    assert "xennetd is not running" in attached.output
    assert attached.seconds < 25, "it waited"
    # libxl leaves the device that it could not add, and xennetd would connect it once it runs.
    do("xl", "network-detach", "boot", "1")
    created = run("xl", "create", "-p", str(web.config))
    assert created.status != 0
    assert "xennetd is not running" in created.output
    assert run("xl", "domid", "web").status != 0, "the domain was left half-made"


def test_create_waits_for_a_daemon_that_is_being_restarted(guest: MakeGuest, trail: Trail) -> None:
    web = guest("web")
    restart = threading.Thread(target=do, args=("systemctl", "restart", "xennetd"))
    restart.start()
    do("xl", "create", "-p", str(web.config))
    restart.join()
    web.find()
    assert web.backend("hotplug-status") == "connected"
    assert trail.of("web") == ["attach"]


def test_create_gets_through_when_the_daemon_is_killed_meanwhile(guest: MakeGuest) -> None:
    web = guest("web")
    do("systemctl", "kill", "--signal=KILL", "xennetd")
    do("xl", "create", "-p", str(web.config))
    web.find()
    ready()
    assert web.backend("hotplug-status") == "connected"
    listed = row(web.vif())
    assert listed is not None
    assert (listed["vm"], listed["state"]) == ("web", "connected")
