"""The link by which the root file system comes, by the routes, sockets and links of a real kernel.

What is mounted, and the disks' attributes, are files of the test: no kernel here has its root on the network.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.bed.netns import Host, NetNs
from tests.kernel.wait import eventually
from xennetd.daemon.host_checks import read_links
from xennetd.daemon.network_disks import NetworkDisks, Ways
from xennetd.daemon.root_link import RootLinks, root_links
from xennetd.model.topology import Topology, TopologyLink

SERVER = "192.0.2.9"
CLIENT = "import socket, sys; s = socket.create_connection((input(), 10809)); print(flush=True); sys.stdin.read()"


@pytest.fixture
def storage(host: Host) -> NetNs:
    """What is beyond eth0 (192.0.2.1/24, 2001:db8::1/64), and beyond eth1, by which a static route leads too."""
    beyond = host.guest("storage")
    for name, addresses in (("eth0", ("192.0.2.1/24", "2001:db8::1/64")), ("eth1", ("198.51.100.1/24",))):
        host.rtnl.add_veth(name, name, beyond.fd)
        for each in (host, beyond):
            each.rtnl.set(name, up=True)
        for address in addresses:
            host.run("ip", "address", "add", address, "dev", name, *(("nodad",) if ":" in address else ()))
    beyond.run("ip", "address", "add", "192.0.2.9/24", "dev", "eth0")
    host.run("ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.9")
    eventually(lambda: "2001:db8::/64" in host.run("ip", "-6", "route").stdout)
    return beyond


def found(proc: Path, server: str, topology: Topology | None = None) -> RootLinks:
    (proc / "self").mkdir(exist_ok=True)
    (proc / "self/mountinfo").write_text(f"20 1 0:30 / / rw - nfs4 server:/root rw,addr={server}\n")
    links = read_links()
    assert links is not None
    return root_links(links, topology or Topology(), proc)


def test_the_way_to_the_server_is_the_kernels(host: Host, storage: NetNs, tmp_path: Path) -> None:
    assert found(tmp_path, "192.0.2.9").names == {"eth0"}
    assert found(tmp_path, "2001:db8::9").names == {"eth0"}
    assert found(tmp_path, "203.0.113.9").names == {"eth1"}
    assert found(tmp_path, "203.0.114.9") == RootLinks(unknown=("nfs4 server:/root",))
    host.run("ip", "route", "add", "default", "via", "192.0.2.9")
    assert found(tmp_path, "203.0.114.9").names == {"eth0"}
    # A table of its own, which no main table shows.
    host.run("ip", "route", "add", "default", "via", "198.51.100.9", "table", "77")
    host.run("ip", "rule", "add", "to", "203.0.114.0/24", "table", "77")
    assert found(tmp_path, "203.0.114.9").names == {"eth1"}


def test_a_link_local_server_is_on_the_link_that_its_address_names(host: Host, storage: NetNs, tmp_path: Path) -> None:
    assert found(tmp_path, "fe80::9%eth1").names == {"eth1"}
    assert found(tmp_path, f"fe80::9%{host.links()['eth1']['ifindex']}").names == {"eth1"}


def test_the_ports_of_a_bridge_count_and_a_nic_by_its_name_in_the_topology(
    host: Host, storage: NetNs, tmp_path: Path
) -> None:
    host.run("ip", "address", "flush", "dev", "eth0")
    host.bridge("br0", address="192.0.2.1/24")
    host.rtnl.set("eth0", master="br0")
    macs = {name: host.links()[name]["address"] for name in ("eth0", "eth1")}
    topology = Topology((TopologyLink("nic", "lan", mac=macs["eth0"]), TopologyLink("nic", "san", mac=macs["eth1"])))
    assert found(tmp_path, "192.0.2.9", topology).names == {"br0", "eth0", "lan"}
    assert found(tmp_path, "198.51.100.9", topology).names == {"eth1", "san"}


@pytest.fixture
def client(storage: NetNs) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls itself nbd-client, and is connected to 192.0.2.9."""
    with storage:
        server = socket.create_server(("192.0.2.9", 10809))
    command = ["nbd-client", "-c", CLIENT]  # The server's address is no argument: only the socket tells it.
    started = subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdin is not None
    assert started.stdout is not None
    with server, started:
        started.stdin.write(f"{SERVER}\n".encode())
        started.stdin.flush()
        started.stdout.readline()
        yield started
        started.kill()


def test_the_server_to_which_the_process_of_a_network_block_device_is_connected(
    client: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "nbd0").mkdir()
    (tmp_path / "nbd0/pid").write_text(f"{client.pid}\n")
    with socket.create_server(("127.0.0.1", 80)) as other, socket.create_connection(other.getsockname()):
        ways = NetworkDisks(Path("/proc"), Path("/sys")).ways_of(tmp_path / "nbd0")
    assert ways == Ways(frozenset({ip_address(SERVER)}))
