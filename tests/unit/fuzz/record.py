"""Records the corpus from a real host: `python -m tests.unit.fuzz.record`, as root, where the kernel lane can run.

A daemon serves a guest in every mode. The files below `corpus/` get what passes by meanwhile: rtnetlink's dumps, events
and acknowledgements, xenstored's stream and the nodes of vifs, nft's listings, dnsmasq's leases and the kernel's
answers about the nftables table. Each line of a file is one input, as a literal of Python bytes.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from tests.bed.daemon import Daemon
from tests.bed.dhcp import kill_all
from tests.bed.entries import configure
from tests.bed.guest import Bed, Guest
from tests.bed.netns import Host
from tests.bed.site import Site
from tests.bed.xenstored import Xenstored
from tests.kernel.every_mode import EVERY_MODE, SPECS, populate, served
from tests.kernel.wait import eventually
from tests.unit.fuzz.nodes import pack
from xennetd.kernel import ethtool, netlink, rtnl, rtnl_ip, sock_diag
from xennetd.kernel.rtnl_entries import dump_requests
from xennetd.kernel.sockets import EventSocket, RequestSocket, dump_once
from xennetd.model.marks import TABLE
from xennetd.xenstore import codec

CORPUS = Path(__file__).parent / "corpus"


def write(name: str, inputs: Iterable[bytes]) -> None:
    """Write a file of the corpus: the inputs once each, the longest last."""
    found = sorted(set(inputs), key=lambda data: (len(data), data))
    (CORPUS / f"{name}.txt").write_text("".join(f"{data!r}\n" for data in found))
    print(f"{name}: {len(found)} inputs, {sum(map(len, found))} bytes")


def messages(datagrams: Iterable[bytes]) -> Iterable[bytes]:
    """The messages of these datagrams, one by one."""
    for data in datagrams:
        for header in netlink.headers(data):
            yield data[header.start - 16 : header.end]


def kinds(found: Iterable[bytes], each: int = 2) -> list[bytes]:
    """A few messages of each type, family and rough size."""
    kept: dict[tuple[int, int, int], list[bytes]] = {}
    for data in found:
        kind = (struct.unpack_from("=H", data, 4)[0], data[16] if len(data) > 16 else 0, len(data) // 64)
        if len(kept.setdefault(kind, [])) < each:
            kept[kind].append(data)
    return [data for group in kept.values() for data in group]


def table_answer() -> bytes:
    """The kernel's answer about our nftables table, as `nft.netfilter.table_flags` gets it."""
    body = struct.pack("=BBH", 1, 0, 0) + netlink.attribute(1, TABLE.encode() + b"\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as requests:
        requests.bind((0, 0))
        requests.send(netlink.request(10 << 8 | 1, 5, 1, body))
        return requests.recv(1 << 16)


def ethtool_answers() -> list[bytes]:
    """What ethtool netlink answers about its number, the names of features, and the features of two links."""
    host = Host()
    requests = RequestSocket(16)
    try:
        host.bridge("br0")
        beyond = host.guest("beyond")
        host.rtnl.add_veth("eth0", "eth0", beyond.fd)
        found = requests.ask([ethtool.get_family(requests.next_seq())])[1]
        family = ethtool.parse_family(found[0], next(iter(netlink.headers(found[0]))))
        found += requests.ask([ethtool.get_names(requests.next_seq(), family)])[1]
        for name in ("eth0", "br0"):
            index = host.links()[name]["ifindex"]
            found += requests.ask([ethtool.get_features(requests.next_seq(), family, index)])[1]
        return [data for data in messages(found) if struct.unpack_from("=H", data, 4)[0] != netlink.NLMSG_ERROR]
    finally:
        requests.close()
        host.close()


def stream(path: Path, vif: str) -> list[bytes]:
    """What xenstored sends to a client that watches, reads, lists, and is refused."""
    requests = [
        (codec.WATCH, b"backend/vif\0backend/vif\0"),
        (codec.DIRECTORY, b"backend/vif\0"),
        (codec.DIRECTORY_PART, b"backend/vif\0000\0"),
        (codec.READ, f"{vif}/mac\0".encode()),
        (codec.READ, b"no/such/node\0"),
        (codec.TRANSACTION_START, b"\0"),
        (codec.WRITE, f"{vif}/xennetd-tap\0connected".encode()),
        (codec.WRITE, b"/\0"),
        (codec.DIRECTORY, f"{vif}\0".encode()),
    ]
    found = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(0.3)
        for number, (op, payload) in enumerate(requests, 1):
            client.sendall(codec.encode(op, number, 0, payload))
            try:
                found.append(client.recv(1 << 16))
            except TimeoutError:
                print("no answer to", op, payload)
    return [*found, b"".join(found)]


def entries() -> Iterable[bytes]:
    """What the kernel tells of the addresses, routes, rules and neighbours of a host that has many kinds of them."""
    host = Host()
    requests = RequestSocket()
    try:
        beyond = host.guest("beyond")
        host.rtnl.add_veth("eth0", "eth0", beyond.fd)
        beyond.rtnl.set("eth0", up=True)
        configure(host)
        return list(messages(data for request, _ in dump_requests() for data in requests.dump_of(request)))
    finally:
        requests.close()
        host.close()


def sockets() -> Iterable[bytes]:
    """What the kernel tells of programs that listen, and of connections to them."""
    host = Host()
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    try:
        for address in ("192.0.2.1/32", "2001:db8::1/128"):
            host.run("ip", "address", "add", address, "dev", "lo", *(("nodad",) if ":" in address else ()))
        eventually(lambda: host.ping("2001:db8::1"))
        six = socket.AF_INET6
        servers = [socket.create_server(("192.0.2.1", 22)), socket.create_server(("2001:db8::1", 22), family=six)]
        servers.append(socket.create_server(("::", 80), family=six, dualstack_ipv6=True))
        clients = [socket.create_connection((each, 80)) for each in ("192.0.2.1", "2001:db8::1")]
        query = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        query.connect(("192.0.2.1", 53))
        found = []
        for seq, (family, protocol) in enumerate(((2, 6), (10, 6), (2, 17), (10, 17)), 1):
            found += dump_once(diag, sock_diag.dump_sockets(seq, family, protocol, range(1, 12)), seq)[0]
        for each in (*servers, *clients, query):
            each.close()
        return list(messages(found))
    finally:
        diag.close()
        host.close()


def main() -> None:
    write("ip_entries", kinds(entries(), 3))
    write("sock_diag", sockets())
    write("ethtool_answers", ethtool_answers())
    host, xenstored = Host(), Xenstored()
    bed = Bed(xenstored, host)
    Site(host)
    os.environ |= xenstored.environment()
    requests, events = RequestSocket(), EventSocket()
    with tempfile.TemporaryDirectory() as directory:
        daemon = Daemon(xenstored, Path(directory), EVERY_MODE).start()
        try:
            guests = populate(bed, lambda name, spec=None, **how: Guest(bed, name, spec, **how), SPECS)
            for guest in guests.values():
                guest.connect()
            served("lab", "store")
            lab = guests["lab-1"]
            with lab.namespace:
                subprocess.run(["busybox", "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", "/bin/true"], check=True)
            leases = Path("/var/lib/xennetd/xn-lab/leases")
            eventually(lambda: "00:16:3e" in leases.read_text())
            acks = []
            for request in (
                rtnl.get_link(requests.next_seq(), 4711),
                rtnl.set_link(requests.next_seq(), 1, master=1),
                rtnl_ip.delete_proxy(requests.next_seq(), 1, ip_address("192.0.2.99")),
                rtnl.set_link(requests.next_seq(), host.links()["eth0"]["ifindex"], up=True),
            ):
                acks += requests.ask([request])[1]
            dump = [*requests.dump(), *requests.dump_of(rtnl_ip.dump_proxies)]
            write("vif_nodes", [pack(bed.toolstack.xs.tree(guest.vif.backend)) for guest in guests.values()])
            write("xenstore_stream", stream(xenstored.socket, f"/{lab.vif.backend.lstrip('/')}"))
            listing = host.run("nft", "-j", "list", "table", "inet", TABLE).stdout
            listings = [listing.encode()]
            for name in ("masquerade4", "saved_sysctls", "guest_only4", "forward4"):
                kind = "set" if name in ("masquerade4", "guest_only4") else "map"
                listings.append(host.run("nft", "-j", "list", kind, "inet", TABLE, name).stdout.encode())
            listings.append(host.run("nft", "-j", "list", "ruleset").stdout.encode())
            write("nft_listing", [json.dumps(json.loads(text)).encode() for text in listings])
            write("nft_events", [table_answer()])
            files = [leases.read_bytes(), *(file.read_bytes() for file in Path("/var/lib/xennetd").rglob("names/*"))]
            files += [file.read_bytes() for file in Path("/var/lib/xennetd").rglob("dnsmasq.conf")]
            write("dnsmasq_files", files)
            for guest in guests.values():
                guest.destroy()
            bed.host.rtnl.set("eth0", up=False)
            bed.host.rtnl.set("eth0", up=True)
            daemon.terminate()
            seen = [*messages(dump), *messages(events.drain())]
            write("netlink_messages", kinds(seen))
            write("netlink_answers", [*acks, *kinds(messages(requests.dump_of(rtnl_ip.dump_proxies)))])
        finally:
            daemon.close()
            kill_all()
            bed.close()
            xenstored.close()
            host.close()


if __name__ == "__main__":
    main()
