"""The hotplug script beside the real daemon: it starts three programs at most, whoever is first, and misses nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed.daemon import RUNTIME, STAND_IN
from tests.bed.guest import Bed
from tests.bed.hotplug import ADD, ONE_START, ONLINE, THREE_STARTS, THREE_STARTS_ONE_HELD, Script
from tests.bed.toolstack import Vif, VifSpec
from tests.kernel.conftest import MakeDaemon, MakeGuest
from tests.kernel.verdict import connected, refused
from tests.kernel.wait import eventually, paused

MakeScript = Callable[[Vif], Script]


@pytest.fixture
def script(bed: Bed, tmp_path: Path) -> MakeScript:
    def make(vif: Vif) -> Script:
        scratch = tmp_path / vif.netdev
        scratch.mkdir()
        return Script(bed.xenstored, vif, scratch)

    return make


def marked(directory: str) -> list[str]:
    return sorted(path.name for path in (RUNTIME / directory).iterdir())


def without_link(bed: Bed) -> Vif:
    """A vif at state 2 that can't be attached yet."""
    vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web"), VifSpec())
    bed.netback.probe(vif)
    return vif


def told(name: str) -> None:
    """Wait for the daemon's mark."""
    eventually((RUNTIME / "told" / name).exists)


class TestTheDaemonIsFirst:
    @pytest.mark.parametrize("spec", [VifSpec(), VifSpec(vifname="shop")], ids=["", "with a vifname"])
    def test_connected(self, spec: VifSpec, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        web = guest("web", spec)
        told(web.vif.netdev)
        ended = script(web.vif)(*ONLINE)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", ONE_START)

    def test_refused(self, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        daemon()
        web = guest("web", VifSpec(bridge="nowhere"))
        told(web.vif.netdev)
        ended = script(web.vif)(*ONLINE)
        assert (ended.status, ended.programs) == (1, ONE_START)
        assert 'bridge "nowhere" does not exist' in ended.stderr

    def test_a_tap(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        windows = guest("windows", VifSpec(type="vif_ioemu"))
        bed.host.tap(windows.vif.tap)
        told(windows.vif.tap)
        ended = script(windows.vif)(*ADD)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", ONE_START)

    def test_and_has_been_started_anew(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web")
        connected(bed, web.vif)
        xennetd.terminate()
        xennetd.start()
        assert marked("told") == [web.vif.netdev]
        assert script(web.vif)(*ONLINE).programs == ONE_START


class TestTheScriptIsFirst:
    def test_connected(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        with paused(daemon().pid):
            web = guest("web")
            online = script(web.vif)
            process = online.start(*ONLINE)
            eventually(online.watching)
        ended = online.end(process, 0)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS)

    def test_refused(self, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        with paused(daemon().pid):
            web = guest("web", VifSpec(bridge="nowhere"))
            online = script(web.vif)
            process = online.start(*ONLINE)
            eventually(online.watching)
        ended = online.end(process, 0)
        assert (ended.status, ended.programs) == (1, THREE_STARTS)
        assert 'bridge "nowhere" does not exist' in ended.stderr

    def test_a_tap(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        windows = guest("windows", VifSpec(type="vif_ioemu"))
        connected(bed, windows.vif)
        add = script(windows.vif)
        process = add.start(*ADD)
        eventually(add.watching)
        bed.host.tap(windows.vif.tap)
        ended = add.end(process, 0)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS)

    def test_and_its_watch_is_late(self, bed: Bed, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        vif = without_link(bed)
        online = script(vif)
        online.hold("xenstore-watch")
        process = online.start(*ONLINE)
        with online.held():
            bed.netback.create(vif, bed.host.guest("web"))
            told(vif.netdev)
        ended = online.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)
        eventually(lambda: marked("waiting") == [])

    def test_and_the_daemon_is_killed_and_started_again(self, bed: Bed, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        vif = without_link(bed)
        online = script(vif)
        process = online.start(*ONLINE)
        eventually(online.watching)
        xennetd.kill9()
        bed.netback.create(vif, bed.host.guest("web"))
        xennetd.start()
        ended = online.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS)

    def test_and_the_daemon_is_killed_before_it_marks_what_it_wrote(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript
    ) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        xennetd.kill9()
        web = guest("web")
        online = script(web.vif)
        online.hold("xenstore-watch")
        process = online.start(*ONLINE)
        with online.held():
            bed.toolstack.xs.write(f"{web.vif.backend}/hotplug-status", "connected")
        time.sleep(0.3)
        assert process.poll() is None
        xennetd.start()
        ended = online.end(process, 0)
        assert (ended.status, ended.programs) == (0, THREE_STARTS_ONE_HELD)

    def test_and_the_vif_is_removed(self, bed: Bed, daemon: MakeDaemon, script: MakeScript) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        vif = without_link(bed)
        online = script(vif)
        process = online.start(*ONLINE)
        eventually(online.watching)
        bed.toolstack.detach_vif(vif)
        bed.netback.close(vif)
        ended = online.end(process, 0)
        assert (ended.status, ended.programs) == (1, THREE_STARTS)
        assert ended.stderr == f"vif-xennetd: {vif.netdev} was removed before it was connected\n"
        bed.toolstack.forget_vif(vif)
        eventually(lambda: marked("waiting") == [])


def test_at_any_moment(bed: Bed, daemon: MakeDaemon, script: MakeScript) -> None:
    """The link appears, and the daemon begins its work, at some moment of the script's life."""
    bed.host.bridge("xenbr0")
    daemon()
    namespace = bed.host.guest("crowd")
    moments = random.Random(1)
    starts = []
    for number in range(60):
        vif = without_link(bed)
        online = script(vif)
        process = online.start(*ONLINE)
        time.sleep(moments.uniform(0, 0.06))
        bed.netback.create(vif, namespace, f"eth{number}")
        ended = online.end(process, 0)
        assert (ended.status, ended.stderr) == (0, "")
        starts.append(len(ended.programs))
    assert set(starts) == {1, 3}


class TestNobodyWillTell:
    def test_a_daemon_that_was_stopped(self, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        xennetd = daemon()
        xennetd.terminate()
        ended = script(guest("web").vif)(*ONLINE)
        assert (ended.status, ended.programs) == (1, [])
        assert "xennetd is not running" in ended.stderr

    def test_a_daemon_that_observes(self, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript) -> None:
        daemon(STAND_IN + 'mode = "observe"\n')
        ended = script(guest("web").vif)(*ONLINE)
        assert (ended.status, ended.programs) == (1, [])
        assert "xennetd only observes" in ended.stderr
        assert marked("told") == []


class TestMarks:
    def test_they_go_with_their_vif(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        daemon()
        web = guest("web", VifSpec(type="vif_ioemu"))
        bed.host.tap(web.vif.tap)
        told(web.vif.netdev)
        told(web.vif.tap)
        (RUNTIME / "waiting" / web.vif.netdev).touch()  # a script that was killed
        web.destroy()
        eventually(lambda: marked("told") + marked("waiting") == [])

    def test_what_is_of_no_vif_goes_at_the_start(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        gone, stays = guest("gone"), guest("stays")
        told(gone.vif.netdev)
        told(stays.vif.netdev)
        xennetd.kill9()
        (RUNTIME / "waiting" / gone.vif.netdev).touch()
        gone.destroy()
        xennetd.start()
        assert (marked("told"), marked("waiting")) == ([stays.vif.netdev], [])

    def test_of_a_device_that_was_replaced_meanwhile(self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon) -> None:
        bed.host.bridge("xenbr0")
        xennetd = daemon()
        web = guest("web")
        told(web.vif.netdev)
        xennetd.kill9()
        web.detach()
        vif = bed.toolstack.add_vif(web.domain, VifSpec())
        assert vif.netdev == web.vif.netdev
        xennetd.start()
        assert marked("told") == []

    def test_an_attach_does_not_depend_on_them(
        self, bed: Bed, guest: MakeGuest, daemon: MakeDaemon, script: MakeScript
    ) -> None:
        bed.host.bridge("xenbr0")
        RUNTIME.mkdir()
        (RUNTIME / "told").touch()  # where the directory should be
        xennetd = daemon()
        web = guest("web")
        connected(bed, web.vif)
        ended = script(web.vif)(*ONLINE)
        assert (ended.status, ended.stderr, ended.programs) == (0, "", THREE_STARTS)
        assert refused(bed, guest("lost", VifSpec(bridge="nowhere")).vif)
        assert xennetd.stderr().count("hotplug scripts will read xenstore more often") == 1
