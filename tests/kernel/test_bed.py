"""The bed itself: that what the other tests stand on behaves as the real thing does."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bed import hotplug
from tests.bed.guest import Bed, crowd
from tests.bed.netns import Host
from tests.bed.ring import notify_virq
from tests.bed.systemd import Journal, Notify
from tests.bed.toolstack import VifSpec
from tests.bed.xenstored import Oxenstored, Xenstored
from tests.bed.xs import Event, Op, Request, Xs
from tests.kernel.conftest import MakeGuest, both_stores

QUOTA = (errno.ENOSPC, errno.E2BIG, errno.EDQUOT)
"""What xenstored's versions say when a domain has had enough."""

STOCK = VifSpec(script="vif-bridge")


@pytest.fixture
def domain(bed: Bed) -> Callable[[], Xs]:
    """Connections of one unprivileged domain, 5, over its one ring."""
    bed.toolstack.create_domain("small", domid=5)
    path = bed.xenstored.domain_socket(5)
    return lambda: Xs(path)


def refused(act: Callable[[], object]) -> str:
    """The name of the errno that `act` fails with."""
    with pytest.raises(OSError) as failure:  # noqa: PT011 - the errno is the result
        act()
    return errno.errorcode[failure.value.errno or 0]


def allowed(act: Callable[[int], object], limit: int = 3000) -> int:
    """How often `act` may be done before a quota ends it."""
    for n in range(limit):
        try:
            act(n)
        except OSError as error:
            if error.errno not in QUOTA:
                raise
            return n
    raise AssertionError(f"done {limit} times and never refused")


@both_stores
class TestXenstored:
    def test_passes_xens_own_test(self, xenstored: Xenstored) -> None:
        result = subprocess.run(
            [xenstored.xen.test_xenstore], env=xenstored.environment(), capture_output=True, text=True, check=True
        )
        assert len([line for line in result.stdout.splitlines() if line.endswith(" ns")]) == 12

    def test_serves_the_packaged_tools(self, xenstored: Xenstored) -> None:
        environment = xenstored.environment()
        subprocess.run(["xenstore-write", "/a/b", "c d"], env=environment, check=True)
        read = subprocess.run(["xenstore-read", "/a/b"], env=environment, capture_output=True, text=True, check=True)
        assert read.stdout == "c d\n"

    def test_lists_more_children_than_one_message_holds(self, xenstored: Xenstored) -> None:
        names = [f"{'n' * 40}{number:04}" for number in range(300)]
        with xenstored.connect() as xs:
            xs.write_all("/big", dict.fromkeys(names, ""))
            if isinstance(xenstored, Oxenstored):
                assert len(xs.request(Request.of(Op.DIRECTORY, "/big"))) == sum(len(name) + 1 for name in names)
                assert refused(lambda: xs.request(Request.of(Op.DIRECTORY_PART, "/big", "0"))) == "ENOSYS"
            else:
                assert refused(lambda: xs.request(Request.of(Op.DIRECTORY, "/big"))) == "E2BIG"
            assert sorted(xs.ls("/big")) == names

    def test_a_transaction_fails_when_what_it_read_has_changed(self, xenstored: Xenstored) -> None:
        with xenstored.connect() as xs, xenstored.connect() as other:
            xs.write("/a", "1")
            tx = xs.start()
            xs.read("/a", tx)
            xs.write("/b", "2", tx)
            other.write("/a", "3")
            assert refused(lambda: xs.end(tx)) == "EAGAIN"
            assert xs.get("/b") is None

    def test_any_bytes_can_be_a_value(self, xenstored: Xenstored) -> None:
        value = bytes(range(256))
        with xenstored.connect() as xs:
            xs.write("/a", value)
            assert xs.read_bytes("/a") == value
            xs.write("/b", xs.read("/a"))
            assert xs.read_bytes("/b") == value

    def test_a_restart_keeps_contents_and_domains(self, bed: Bed, guest: MakeGuest) -> None:
        guest("web")
        bed.toolstack.xs.write("/a", b"\xff\0\n")
        before = bed.xenstored.dump()
        pid = bed.xenstored.pid
        bed.xenstored.restart()
        assert refused(lambda: bed.toolstack.xs.read("/a")) in ("ECONNRESET", "EPIPE")
        bed.reconnect()
        assert bed.xenstored.pid != pid
        assert bed.xenstored.dump() == before
        assert bed.toolstack.xs.is_introduced(1)

    def test_a_restart_shows_no_half_of_the_contents(self, xenstored: Xenstored) -> None:
        with xenstored.connect() as xs:
            xs.write_all("/many", {str(number): "" for number in range(500)})
        seen: set[int] = set()
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                try:
                    with Xs(xenstored.socket) as xs:
                        seen.add(len(xs.ls("/many")))
                except OSError:
                    continue

        onlooker = threading.Thread(target=look)
        onlooker.start()
        xenstored.restart()
        over.set()
        onlooker.join()
        assert seen == {500}

    def test_a_kill_drops_every_connection(self, xenstored: Xenstored) -> None:
        with xenstored.connect() as xs:
            xenstored.kill9()
            assert refused(lambda: xs.read("/")) in ("ECONNRESET", "EPIPE")


class TestRing:
    def test_an_event_for_a_xenstored_that_ends_just_now_goes_nowhere(self, tmp_path: Path) -> None:
        events = tmp_path / "events"
        os.mkfifo(events)
        over = threading.Event()

        def come_and_go() -> None:
            while not over.is_set():
                os.close(os.open(events, os.O_RDONLY | os.O_NONBLOCK))

        xenstored = threading.Thread(target=come_and_go)
        xenstored.start()
        try:
            for _ in range(10_000):
                notify_virq(tmp_path)
        finally:
            over.set()
            xenstored.join()


@both_stores
class TestDomains:
    def test_introduction_and_release_are_told(self, bed: Bed) -> None:
        xs = bed.xenstored.connect()
        xs.watch("@introduceDomain", "in")
        xs.watch("@releaseDomain", "out")
        assert {xs.event().token, xs.event().token} == {"in", "out"}
        domain = bed.toolstack.create_domain("web")
        assert xs.event() == Event("@introduceDomain", "in")
        bed.toolstack.destroy_domain(domain)
        assert xs.event() == Event("@releaseDomain", "out")
        assert not xs.is_introduced(domain.domid)
        xs.close()

    def test_a_domid_can_be_used_again(self, bed: Bed) -> None:
        first = bed.toolstack.create_domain("first", domid=5)
        with Xs(bed.xenstored.domain_socket(5)) as xs:
            assert xs.read("name") == "first"
        bed.toolstack.destroy_domain(first)
        bed.toolstack.xs.until("/local/domain/5", None)
        bed.toolstack.create_domain("second", domid=5)
        with Xs(bed.xenstored.domain_socket(5)) as xs:
            assert xs.read("name") == "second"

    def test_home_is_where_relative_paths_begin(self, domain: Callable[[], Xs]) -> None:
        xs = domain()
        assert xs.read("domid") == "5"
        assert xs.read("name") == xs.read("/local/domain/5/name") == "small"

    def test_others_domains_are_closed_to_it(self, bed: Bed, domain: Callable[[], Xs]) -> None:
        bed.toolstack.create_domain("other", domid=6)
        xs = domain()
        assert refused(lambda: xs.read("/local/domain/6/name")) == "EACCES"
        assert refused(lambda: xs.write("name", "big")) == "EACCES"
        assert refused(lambda: xs.mkdir("/mine")) == "EACCES"
        assert refused(lambda: xs.introduce(7)) == "EACCES"
        xs.write("data/note", "mine")
        assert bed.toolstack.xs.get_perms("/local/domain/5/data/note") == ["n5"]

    def test_a_driver_domain_owns_only_the_leaf(self, bed: Bed, domain: Callable[[], Xs]) -> None:
        vif = bed.toolstack.add_vif(bed.toolstack.create_domain("web", domid=6), VifSpec(backend_domid=5))
        xs = domain()
        assert xs.ls("backend/vif") == ["6"]
        assert xs.read("backend/vif/6/0/bridge") == "xenbr0"
        xs.write("backend/vif/6/0/hotplug-status", "connected")
        assert refused(lambda: xs.rm("backend/vif/6")) == "EACCES"
        assert refused(lambda: xs.read("/local/domain/6/name")) == "EACCES"
        xs.rm("backend/vif/6/0")
        bed.toolstack.forget_vif(vif)
        assert bed.toolstack.xs.ls("/local/domain/5/backend") == []

    def test_the_guest_may_write_its_frontend_but_not_its_mtu(self, bed: Bed, domain: Callable[[], Xs]) -> None:
        bed.toolstack.add_vif(bed.toolstack.domain_of(5))
        xs = domain()
        xs.write("device/vif/0/state", "4")
        assert xs.read("/local/domain/0/backend/vif/5/0/hotplug-status") == ""
        assert refused(lambda: xs.write("device/vif/0/mtu", "9000")) == "EACCES"
        assert refused(lambda: xs.write("/local/domain/0/backend/vif/5/0/state", "4")) == "EACCES"

    def test_default_quotas(self, domain: Callable[[], Xs], xenstored: Xenstored) -> None:
        xs = domain()
        xs.write("data/big", "x" * 1900)
        assert refused(lambda: xs.write("data/big", "x" * 2049)) in ("ENOSPC", "E2BIG")
        watches = 100 if isinstance(xenstored, Oxenstored) else 128
        assert allowed(lambda n: xs.watch("/local/domain/5", str(n))) in (watches, watches + 1)
        # A node's size includes its list of children: many directories, or that limit comes first.
        assert 900 < allowed(lambda n: xs.write(f"data/{n % 20}/{n}", "")) <= 1000
        # Last: writes are limited to a rate while any transaction is open.
        assert allowed(lambda n: xs.start()) in (10, 11)

    def test_raised_quotas(self, xenstored: Xenstored) -> None:
        name = "quota-maxwatch" if isinstance(xenstored, Oxenstored) else "watch-nb"
        raised = type(xenstored)({name: 1000})
        try:
            with raised.connect() as dom0:
                dom0.mkdir("/local/domain/5")
                dom0.set_perms("/local/domain/5", "n5")
                dom0.introduce(5)
            with Xs(raised.domain_socket(5)) as xs:
                assert allowed(lambda n: xs.watch("data", str(n))) in (1000, 1001)
        finally:
            raised.close()

    def test_programs_of_one_domain_share_its_ring(self, domain: Callable[[], Xs]) -> None:
        one, two = domain(), domain()
        one.watch("data", "same")
        two.watch("data", "same")
        assert one.event() == two.event() == Event("data", "same")
        one.unwatch("data", "same")
        two.write("data/a", "x" * 2000)
        assert two.event() == Event("data/a", "same")
        with pytest.raises(TimeoutError):
            one.event(0.05)
        assert one.read("data/a") == "x" * 2000

    def test_what_a_program_leaves_open_is_closed(self, domain: Callable[[], Xs]) -> None:
        for _ in range(3):
            xs = domain()
            for number in range(100):
                xs.watch("data", str(number))
            for _ in range(8):
                xs.start()
            xs.close()
        with domain() as xs:
            assert allowed(lambda n: xs.start()) in (10, 11)

    def test_a_restart_ends_its_connections_too(self, bed: Bed, domain: Callable[[], Xs]) -> None:
        xs = domain()
        bed.xenstored.restart()
        assert refused(lambda: xs.read("name")) in ("ECONNRESET", "EPIPE")
        assert domain().read("name") == "small"


class TestNamespaces:
    def test_sys_shows_the_hosts_own_links(self, host: Host) -> None:
        host.bridge("xenbr0")
        assert sorted(os.listdir("/sys/class/net")) == ["lo", "xenbr0"]
        assert Path("/sys/class/net/xenbr0/bridge").is_dir()

    @pytest.mark.usefixtures("host")
    def test_leaving_brings_everything_back(self) -> None:
        before = [os.readlink(f"/proc/thread-self/ns/{kind}") for kind in ("net", "mnt")], os.getcwd()
        host = Host()
        assert os.readlink("/proc/thread-self/ns/net") != before[0][0]
        Path("/etc/xennetd-test").touch()
        host.close()
        assert ([os.readlink(f"/proc/thread-self/ns/{kind}") for kind in ("net", "mnt")], os.getcwd()) == before
        assert not Path("/etc/xennetd-test").exists()

    def test_a_vif_is_born_down_with_netbacks_marks(self, host: Host, guest: MakeGuest) -> None:
        guest("web")
        link = host.link("vif1.0")
        assert link is not None
        assert link["address"] == "fe:ff:ff:ff:ff:ff"
        assert link["altnames"] == ["vif-1-0"]
        assert "UP" not in link["flags"]
        assert "master" not in link

    def test_a_tap_is_a_real_one(self, host: Host) -> None:
        tap = host.tap("vif1.0-emu")
        link = host.link("vif1.0-emu")
        assert link is not None
        assert link["linkinfo"]["info_kind"] == "tun"
        assert link["linkinfo"]["info_data"]["type"] == "tap"
        tap.close()
        assert host.link("vif1.0-emu") is None


class TestStockScript:
    def test_attach_and_detach(self, bed: Bed, host: Host, guest: MakeGuest) -> None:
        host.bridge("xenbr0")
        host.uplink("xenbr0", address="10.0.0.254/24")
        web = guest("web", STOCK, address="10.0.0.1/24")
        assert web.online().status == 0
        link = host.link("vif1.0")
        assert link is not None
        assert link["master"] == "xenbr0"
        assert "UP" in link["flags"]
        web.connect()
        assert bed.toolstack.xs.read(f"{web.vif.backend}/state") == "4"
        assert web.ping("10.0.0.254")
        web.destroy(script=True)
        assert host.link("vif1.0") is None
        assert bed.toolstack.xs.ls("/local/domain/0/backend") == []
        assert bed.toolstack.xs.ls("/local/domain") == ["0"]

    def test_a_missing_bridge_is_its_error(self, guest: MakeGuest) -> None:
        web = guest("web", STOCK)
        assert web.online().status == 1
        assert web.hotplug_status() == "error"
        assert "xenbr0" in (web.hotplug_error() or "")
        with pytest.raises(TimeoutError, match="is 'error', not 'connected'"):
            web.connect(0.05)

    def test_a_tap_joins_the_bridge(self, bed: Bed, host: Host, guest: MakeGuest) -> None:
        host.bridge("xenbr0")
        windows = guest("windows", VifSpec(script="vif-bridge", type="vif_ioemu"))
        host.tap("vif1.0-emu")
        assert hotplug.run(bed.xenstored, windows.vif, "add").status == 0
        link = host.link("vif1.0-emu")
        assert link is not None
        assert link["master"] == "xenbr0"


class TestNetback:
    def test_a_crowd_is_there_at_once(self, bed: Bed, host: Host) -> None:
        vifs = crowd(bed, [STOCK] * 20, per_domain=8)
        assert {vif.netdev for vif in vifs} < host.links().keys()
        assert {bed.toolstack.xs.read(f"{vif.backend}/state") for vif in vifs} == {"2"}
        assert bed.toolstack.xs.ls("/local/domain/0/backend/vif/3") == ["0", "1", "2", "3"]
        assert bed.xenstored.introduced() == [1, 2, 3]

    def test_writes_in_the_drivers_order(self, bed: Bed, host: Host, guest: MakeGuest) -> None:
        web = guest("web")
        xs = bed.xenstored.connect()
        xs.watch(web.vif.backend, "")
        xs.event()
        bed.toolstack.xs.write(f"{web.vif.backend}/hotplug-status", "connected")
        web.connect()
        bed.netback.disconnect(web.vif)
        bed.netback.prepare(web.vif)
        bed.netback.connect(web.vif)
        web.detach()
        written: list[str] = []
        while not written or written[-1] != web.vif.backend:
            written.append(xs.event().path)
        names = [path.removeprefix(f"{web.vif.backend}/") for path in written[:-1]]
        state, status = "state", "hotplug-status"
        assert names[:6] == [status, state, state, state, state, state]
        # The toolstack's transaction; xenstored reports its nodes in no order.
        assert sorted(names[6:8]) == ["online", state]
        assert names[8:] == [state, status]
        assert host.link("vif1.0") is None
        xs.close()


class TestSystemd:
    def test_the_journal_takes_what_libsystemd_sends(self, journal: Journal) -> None:
        send = pytest.importorskip("systemd.journal").send
        send("plain", MESSAGE_ID="0" * 32)
        send("two\nlines")
        send("large", XENNET_ERROR="x" * 300_000)
        assert journal.wait_for(MESSAGE="plain")["MESSAGE_ID"] == "0" * 32
        assert journal.wait_for(MESSAGE="two\nlines")
        assert journal.wait_for(MESSAGE="large")["XENNET_ERROR"] == "x" * 300_000
        assert len(journal.having(MESSAGE="plain")) == 1

    def test_a_stalled_journal_takes_nothing(self, journal: Journal) -> None:
        send = pytest.importorskip("systemd.journal").send
        with journal.stall():
            send("late")
            with pytest.raises(TimeoutError):
                journal.wait_for(0.05, MESSAGE="late")
        assert journal.wait_for(MESSAGE="late")

    def test_notifications_are_collected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        systemd = pytest.importorskip("systemd.daemon")
        notify = Notify(tmp_path / "notify")
        monkeypatch.setenv("NOTIFY_SOCKET", str(notify.path))
        systemd.notify("STATUS=starting")
        systemd.notify("READY=1\nSTATUS=0 vifs")
        assert notify.ready().fields == {"READY": "1", "STATUS": "0 vifs"}
        assert notify.status() == "0 vifs"
        notify.close()
