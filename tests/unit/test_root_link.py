"""The links by which the root file system comes over the network, found in directories as /proc and /sys have them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from xennetd.daemon import network_disks
from xennetd.daemon.root_link import RootLinks, Search, device_of
from xennetd.kernel.sock_diag import InetSocket
from xennetd.model.ip import IPAddress

SUBNETS = {
    ip_network("192.0.2.0/24"): "eth0",
    ip_network("2001:db8::/64"): "eth1",
    ip_network("198.51.100.0/24"): "eth2",
}
OWN = {"192.0.2.1": "eth0", "2001:db8::1": "eth1"}


class FakeHost:
    """A host's /proc and /sys. eth0 is in 192.0.2.0/24, eth1 in 2001:db8::/64, eth2 in 198.51.100.0/24."""

    def __init__(self, top: Path) -> None:
        self.proc, self.sys = top / "proc", top / "sys"
        (self.proc / "self").mkdir(parents=True)
        self.sys.mkdir()
        self.numbers: dict[str, str] = {}

    def mount(self, *lines: str) -> FakeHost:
        """Lines of mountinfo, each without its first two numbers."""
        text = "".join(f"{20 + i} 1 {line}\n" for i, line in enumerate(("0:22 / /proc rw - proc proc rw", *lines)))
        (self.proc / "self/mountinfo").write_text(text)
        return self

    def root(self, number: str = "8:1") -> FakeHost:
        return self.mount(f"{number} / / rw,relatime shared:1 - ext4 /dev/root rw")

    def file(self, path: str, text: str = "") -> None:
        """A file below /proc or /sys."""
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def link(self, path: str, target: str) -> None:
        """A symbolic link below /sys to something below /sys."""
        file = self.sys / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(self.sys / target)

    def device(self, path: str, number: str = "", *, partition: bool = False, of: tuple[str, ...] = ()) -> str:
        """A block device below /sys/devices, with its number, and with the devices that it is made of."""
        directory = self.sys / "devices" / path
        directory.mkdir(parents=True, exist_ok=True)
        if number:
            self.link(f"dev/block/{number}", f"devices/{path}")
        if partition:
            (directory / "partition").write_text("1\n")
        for each in of:
            self.link(f"devices/{path}/slaves/{Path(each).name}", f"devices/{each}")
        return path

    def iscsi(self, disk: str, session: int, **attributes: str) -> str:
        """An iSCSI disk. `attributes` are those of its connection."""
        host = f"platform/host{session}/session{session}"
        for name, value in attributes.items():
            self.file(f"sys/class/iscsi_connection/connection{session}:0/{name}", value)
        return self.device(f"{host}/target{session}:0:0/{session}:0:0:0/block/{disk}")

    def found(self) -> RootLinks:
        def way(server: IPAddress) -> str | None:
            return next((link for subnet, link in SUBNETS.items() if server in subnet), None)

        return Search(way, lambda ip: OWN.get(str(ip)), self.proc, self.sys, self.numbers.get).result()


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0:30 / / rw - nfs4 192.0.2.9:/root rw,relatime,vers=4.2,addr=192.0.2.9", RootLinks(frozenset({"eth0"}))),
        ("0:30 / / rw shared:1 master:2 - cifs //server/root rw,addr=2001:db8::9,unix", RootLinks(frozenset({"eth1"}))),
        ("0:30 / /home rw - nfs4 192.0.2.9:/home rw,addr=192.0.2.9", RootLinks()),
        ("0:30 / / rw - nfs 203.0.113.9:/root rw,addr=203.0.113.9", RootLinks(unknown=("nfs 203.0.113.9:/root",))),
        ("0:30 / / rw - nfs server:/my\\040root rw,addr=", RootLinks(unknown=("nfs server:/my root",))),
        ("8:1 / / rw - ext4 /dev/xvda1 rw,relatime", RootLinks()),
        ("0:30 / / rw - zfs pool/root rw,relatime", RootLinks()),
        ("0:30 / / rw - btrfs /dev/none rw,relatime", RootLinks()),
        ("0:30 / / rw - tmpfs tmpfs rw,addr=192.0.2.9", RootLinks()),
    ],
)
def test_a_mount(host: FakeHost, line: str, found: RootLinks) -> None:
    assert host.mount(line).found() == found


def test_without_proc_nothing_is_found(host: FakeHost) -> None:
    assert host.found() == RootLinks()


@pytest.mark.parametrize("name", ["a\x0bb", "a\x0cb", "a\u2028b", "a\rb", "\udc80"])
def test_a_mount_point_of_any_name_hides_nothing(host: FakeHost, name: str) -> None:
    """A name is its maker's. The kernel escapes blanks and newlines only."""
    host.mount("0:9 / / rw - nfs4 192.0.2.9:/x rw,addr=192.0.2.9")
    file = host.proc / "self/mountinfo"
    line = f"30 1 0:40 / /tmp/{name} rw - tmpfs none rw\n\n"
    file.write_bytes(line.encode(errors="surrogateescape") + file.read_bytes())
    assert host.found().names == {"eth0"}


def test_what_is_mounted_last_is_the_root(host: FakeHost) -> None:
    nfs, disk = "0:30 / / rw - nfs a:/ rw,addr=192.0.2.9", "8:1 / / rw - ext4 /dev/sda1 rw"
    assert host.mount(nfs, disk).found() == RootLinks()
    assert host.mount(disk, nfs).found().names == {"eth0"}


def test_the_layers_of_an_overlay(host: FakeHost) -> None:
    host.mount(
        "0:40 / / rw - overlay overlay rw,lowerdir=/ro/a:/my\\040ro:/rolling/a,upperdir=/rw/upper,workdir=/rw/work",
        "0:41 / /rw rw - tmpfs tmpfs rw",
        "0:42 / /ro ro - nfs 192.0.2.9:/root ro,addr=192.0.2.9",
        "0:43 / /ro/another ro - nfs 198.51.100.9:/root ro,addr=198.51.100.9",
        "0:44 / /roll ro - nfs 198.51.100.9:/root ro,addr=198.51.100.9",
        "0:45 / /my\\040ro ro - nfs [2001:db8::9]:/root ro,addr=2001:db8::9",
    )
    assert host.found().names == {"eth0", "eth1"}


def test_an_overlay_that_names_itself(host: FakeHost) -> None:
    assert host.mount("0:40 / / rw - overlay overlay rw,lowerdir=/a:/b").found() == RootLinks()


def test_the_file_of_a_loop_device(host: FakeHost) -> None:
    host.mount("7:0 / / ro - squashfs /dev/loop0 ro", "0:42 / /live ro - nfs 192.0.2.9:/live ro,addr=192.0.2.9")
    host.file(f"sys/devices/{host.device('virtual/block/loop0', '7:0')}/loop/backing_file", "/live/root.squashfs")
    assert host.found().names == {"eth0"}


def test_a_disk_of_the_host_itself(host: FakeHost) -> None:
    disk = host.device("pci0000:00/0000:00:07.1/ata1/host0/target0:0:0/0:0:0:0/block/sda")
    host.root().device(f"{disk}/sda1", "8:1", partition=True)
    assert host.found() == RootLinks()


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"address": "192.0.2.9"}, RootLinks(frozenset({"eth0"}))),
        ({"address": "2001:0db8:0000:0000:0000:0000:0000:0009"}, RootLinks(frozenset({"eth1"}))),
        ({"address": "198.51.100.9", "persistent_address": "192.0.2.9"}, RootLinks(frozenset({"eth2"}))),
        ({"persistent_address": "192.0.2.9"}, RootLinks(frozenset({"eth0"}))),
        ({"persistent_address": "san.example.org"}, RootLinks(unknown=("sda",))),
        ({}, RootLinks(unknown=("sda",))),
    ],
)
def test_an_iscsi_disk(host: FakeHost, attributes: dict[str, str], found: RootLinks) -> None:
    host.iscsi("sdb", 31, address="2001:db8::77")  # another session, whose number begins with the same digit
    disk = host.iscsi("sda", 3, **attributes)
    host.root().device(f"{disk}/sda1", "8:1", partition=True)
    assert host.found() == found


def test_an_iscsi_session_that_is_bound_to_a_link(host: FakeHost) -> None:
    host.root().link("dev/block/8:1", "devices/" + host.iscsi("sda", 3, address="192.0.2.9"))
    host.file("sys/class/iscsi_host/host3/netdev", "(null)")
    assert host.found().names == {"eth0"}
    host.file("sys/class/iscsi_host/host3/netdev", "eth7")
    assert host.found().names == {"eth0"}, "there is no such link"
    (host.sys / "class/net/eth7").mkdir(parents=True)
    assert host.found().names == {"eth7"}


def test_logical_volumes_on_multipath_on_two_ways(host: FakeHost) -> None:
    disks = (host.iscsi("sda", 1, address="192.0.2.9"), host.iscsi("sdb", 2, address="198.51.100.9"))
    multipath = host.device("virtual/block/dm-0", of=disks)
    local = host.device("pci0000:00/block/sdc")
    part = host.device("virtual/block/dm-1", of=(multipath,))
    raid = host.device("virtual/block/md0", of=(local, part))
    host.root("252:2").device("virtual/block/dm-2", "252:2", of=(raid, part))
    assert host.found() == RootLinks(frozenset({"eth0", "eth2"}))


def test_a_btrfs_on_several_disks(host: FakeHost) -> None:
    """A btrfs has a device number of its own, and names one disk as its source."""
    host.mount("0:25 /@root / rw - btrfs /dev/sdc rw,subvol=/@root")
    local, remote = host.device("pci0000:00/block/sdc", "8:32"), host.iscsi("sda", 1, address="192.0.2.9")
    assert host.found() == RootLinks()
    host.numbers["/dev/sdc"] = "8:32"
    assert host.found() == RootLinks()
    for disk in (local, remote):
        host.link(f"fs/btrfs/6d1c/devices/{Path(disk).name}", f"devices/{disk}")
    assert host.found().names == {"eth0"}


@pytest.mark.parametrize(
    ("transport", "address", "found"),
    [
        ("tcp", "traddr=192.0.2.9,trsvcid=4420,src_addr=192.0.2.1", RootLinks(frozenset({"eth0"}))),
        ("rdma", "traddr=2001:db8::9,trsvcid=4420", RootLinks(frozenset({"eth1"}))),
        ("tcp", "traddr=192.0.2.9,trsvcid=4420,host_iface=eth5", RootLinks(frozenset({"eth5"}))),
        ("tcp", "traddr=san.example.org,trsvcid=4420,src_addr=2001:db8::1", RootLinks(frozenset({"eth1"}))),
        ("tcp", "traddr=san.example.org,trsvcid=4420", RootLinks(unknown=("nvme0n1",))),
        ("tcp", "", RootLinks(unknown=("nvme0n1",))),
        ("pcie", "0000:01:00.0", RootLinks()),
        ("fc", "traddr=nn-0x10000090fa:pn-0x10000090fb", RootLinks()),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_an_nvme_namespace(host: FakeHost, several: bool, transport: str, address: str, found: RootLinks) -> None:
    controller = "virtual/nvme-fabrics/ctl/nvme0"
    host.file(f"sys/devices/{controller}/transport", transport)
    host.file(f"sys/devices/{controller}/address", address)
    subsystem = "virtual/nvme-subsystem/nvme-subsys0"
    disk = host.device(f"{subsystem if several else controller}/nvme0n1", "259:0")
    host.device(f"{disk}/nvme0n1p1", "259:1", partition=True)
    if several:
        host.link(f"devices/{subsystem}/nvme0", f"devices/{controller}")
        host.device(f"{controller}/nvme0c0n1")
    assert host.root("259:1").found() == found


def tcp(inode: int, server: str) -> InetSocket:
    return InetSocket(1, ip_address("192.0.2.1").packed, 40000, ip_address(server).packed, 10809, inode)


@pytest.mark.parametrize(
    ("command", "descriptors", "cmdline", "found"),
    [
        ("nbd-client", (77,), "", RootLinks(frozenset({"eth2"}))),
        ("@bd-client", (77, 78), "", RootLinks(frozenset({"eth2", "eth0"}))),
        ("/usr/bin/qemu-nbd", (77,), "", RootLinks(frozenset({"eth2"}))),
        ("nbd-client\0-N\0root\x00192.0.2.9\0/dev/nbd0", (), "", RootLinks(frozenset({"eth0"}))),
        ("nbd-client\0-N\0root\0server\0/dev/nbd0", (), "nbdroot=192.0.2.9,root,nbd0", RootLinks(frozenset({"eth0"}))),
        # Another process has the number of the one that set the device up.
        ("sshd\x00192.0.2.9", (77,), "", RootLinks(unknown=("nbd0",))),
        ("sshd", (77,), "ip=dhcp root=nbd:192.0.2.9:10809:ext4", RootLinks(frozenset({"eth0"}))),
        ("", (), "netroot=nbd:192.0.2.9:10809 root=LABEL=x", RootLinks(frozenset({"eth0"}))),
        ("", (), "netroot=nbd:[2001:db8::9]:10809", RootLinks(frozenset({"eth1"}))),
        ("", (), "nbdroot=2001:db8::9,root", RootLinks(frozenset({"eth1"}))),
        ("", (), "nbdroot=server,root nfsroot=192.0.2.9:/x", RootLinks(unknown=("nbd0",))),
    ],
)
def test_a_network_block_device(
    host: FakeHost,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    descriptors: tuple[int, ...],
    cmdline: str,
    found: RootLinks,
) -> None:
    """The kernel's sockets are played: see the kernel lane for real ones."""
    told = [tcp(77, "198.51.100.9"), tcp(78, "192.0.2.9"), tcp(79, "2001:db8::9")]
    monkeypatch.setattr(network_disks, "sockets", lambda *_: told)
    host.file("proc/cmdline", cmdline)
    disk = host.root("43:0").device("virtual/block/nbd0", "43:0")
    host.file(f"sys/devices/{disk}/pid", "250")
    host.file("proc/250/cmdline", command)
    (host.proc / "250/fd").mkdir()
    (host.proc / "250/fd/0").symlink_to("/dev/null")
    for i, inode in enumerate(descriptors, 1):
        (host.proc / f"250/fd/{i}").symlink_to(f"socket:[{inode}]")
    assert host.found() == found


@pytest.mark.parametrize(
    ("netif", "found"),
    [
        ("eth0", RootLinks(frozenset({"eth0"}))),
        ("eth0,eth3", RootLinks(frozenset({"eth0", "eth3"}))),
        ("none", RootLinks(unknown=("etherd!e0.0",))),
    ],
)
def test_an_aoe_disk(host: FakeHost, netif: str, found: RootLinks) -> None:
    disk = host.device("virtual/block/etherd!e0.0", "152:0")
    host.device(f"{disk}/etherd!e0.0p1", "152:1", partition=True)
    host.file(f"sys/devices/{disk}/netif", netif)
    assert host.root("152:1").found() == found


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("pci0000:00/0000:00:19.0/net/eth4/ctlr_0/host5/rport-5:0-1/target5:0:0/5:0:0:0/block/sda", "eth4"),
        ("virtual/net/eth4.100/ctlr_0/host5/rport-5:0-1/target5:0:0/5:0:0:0/block/sda", "eth4.100"),
        ("virtual/net/eth4.100/host5/rport-5:0-1/target5:0:0/5:0:0:0/block/sda", "eth4.100"),
    ],
)
def test_a_disk_over_fibre_channel_over_ethernet(host: FakeHost, path: str, link: str) -> None:
    host.root("8:0").device(path, "8:0")
    assert host.found().names == {link}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.1:0/3021", RootLinks(frozenset({"eth0"}))),
        ("[2001:db8::1]:0/3021", RootLinks(frozenset({"eth1"}))),
        ("203.0.113.77:0/3021", RootLinks(unknown=("rbd1",))),
    ],
)
@pytest.mark.parametrize("path", ["rbd/1/block/rbd1", "virtual/block/rbd1"])
def test_a_ceph_block_device(host: FakeHost, path: str, address: str, found: RootLinks) -> None:
    disk = host.device(path, "251:0")
    host.device(f"{disk}/rbd1p1", "251:1", partition=True)
    host.file("sys/bus/rbd/devices/1/client_addr", address)
    host.file("sys/bus/rbd/devices/11/client_addr", "198.51.100.1:0/1")
    assert host.root("251:1").found() == found


def test_what_a_link_is_built_on_counts(host: FakeHost) -> None:
    for lower in ("eth0/lower_bond0.100", "bond0.100/lower_bond0", "bond0/lower_p1", "bond0/lower_p2", "eth1/lower_x"):
        host.file(f"sys/class/net/{lower}/ifindex", "1")
    host.mount("0:30 / / rw - nfs 192.0.2.9:/root rw,addr=192.0.2.9")
    assert host.found().names == {"eth0", "bond0.100", "bond0", "p1", "p2"}


def test_the_number_of_a_block_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [device_of(str(each)) for each in (tmp_path / "file", tmp_path / "none", "/dev/null")] == [None, None, None]
