"""What is found in a lease file without reading all of it, and when files are tried again that can't be written."""

from __future__ import annotations

import asyncio
import errno
import time
from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from xennetd.dnsmasq import lease_file, upkeep
from xennetd.dnsmasq.lease_file import LeaseFile
from xennetd.dnsmasq.upkeep import Unwritten
from xennetd.model.objects import Key
from xennetd.render.dnsmasq_files import leases

MACS = ("00:16:3e:00:00:01", "00:16:3e:00:00:02")
ADDRESSES = ("10.77.0.5", "10.77.0.51", "110.77.0.5", "fd77::5")
LINES = st.builds(
    "{} {} {} {} {}".format,
    st.sampled_from(["1795947728", "0", "duid"]),
    st.sampled_from([*MACS, "7012352", *ADDRESSES]),
    st.sampled_from([*ADDRESSES, *MACS]),
    st.sampled_from(["*", *ADDRESSES]),
    st.sampled_from([*(f"01:{mac}" for mac in MACS), *ADDRESSES, *MACS]),
)


@given(st.lists(st.one_of(LINES, st.text(alphabet="0 .\r\udcff", max_size=9)), max_size=6), st.sampled_from(["", "\n"]))
def test_a_search_finds_what_a_reader_of_all_lines_finds(lines: list[str], end: str) -> None:
    text = "\n".join(lines) + end
    everything, found = leases(text), LeaseFile(text.encode("utf-8", "surrogateescape"))
    for address in map(ip_address, ADDRESSES):
        assert found.of_address(address) == everything.get(address)
        assert found.has(address) == (address in everything)
        with mock.patch.object(lease_file, "_FEW", 0):
            assert found.has(address) == (address in everything)
    for mac in MACS:
        assert set(found.of_mac(mac)) == {lease.address for lease in everything.values() if lease.mac == mac}


def test_a_search_among_many_leases_takes_little_time() -> None:
    text = "".join(f"1795947728 {MACS[0]} {IPv4Address(0x0A400000 + i)} * 01:{MACS[0]}\n" for i in range(10_000))
    began = time.thread_time()
    everything = leases(text)
    reading = time.thread_time() - began
    found, address = LeaseFile(text.encode()), IPv4Address("10.64.39.15")
    began = time.thread_time()
    assert found.of_address(address) == everything[address]
    assert time.thread_time() - began < reading / 10


class Disk:
    """Files that wait, and whether the disk takes them."""

    def __init__(self, names: str, clock: list[float]) -> None:
        self.unwritten = Unwritten()
        self.refused = set(names)
        self.tried = ""
        self.clock = clock
        for name in names:
            self.refuse(name)

    def refuse(self, name: str) -> None:
        error = OSError(errno.ENOSPC, "No space left on device", name)
        self.unwritten.add(Key("dhcp host", name), "DHCP on xn-lab", error, lambda: self.write(name))

    def write(self, name: str) -> None:
        self.tried += name
        if name in self.refused:
            self.refuse(name)
        else:
            self.unwritten.written(Key("dhcp host", name))

    def goes_on(self, seconds: int) -> str:
        """What is tried in this time."""
        self.tried = ""
        for _ in range(seconds):
            self.clock[0] += 1
            asyncio.run(self.unwritten.try_again())
        return self.tried


def test_what_cannot_be_written_is_tried_less_and_less_often_and_holds_nothing_else_up() -> None:
    clock = [1000.0]
    with mock.patch.object(upkeep, "time", SimpleNamespace(monotonic=lambda: clock[0])):
        disk = Disk("abc", clock)
        assert disk.goes_on(1) == "a", "one that fails is enough to know"
        assert disk.goes_on(15) == "bca"
        assert len(disk.goes_on(600)) in {10, 11, 12}
        assert disk.unwritten.problems() == [
            "DHCP on xn-lab: a can't be written: No space left on device: "
            "make room on the file system of /var/lib/xennetd (2 more wait)"
        ]
        disk.refused = {"a"}
        assert set(disk.goes_on(120)) == set("abc"), "what still fails keeps nothing else from being written"
        disk.refuse("b")
        disk.refused.clear()
        disk.unwritten.written(Key("dhcp host", "c"))
        assert disk.goes_on(1) == "ab", "where one is written, others may be, too"
