"""What dnsmasq is told, and what is read of what it writes."""

from __future__ import annotations

import re
import shutil
import subprocess
from ipaddress import IPv4Address, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bed.dhcp import network, told
from xennetd.dnsmasq.process import digest, unit, written
from xennetd.model.configuration import Mode
from xennetd.model.objects import DhcpHost
from xennetd.model.text import dns_label
from xennetd.policy.modes import ISOLATED, NAT, ROUTE
from xennetd.render.dnsmasq_files import (
    host_file,
    host_of,
    leases,
    names_file,
    served_link,
    services,
    unported_addresses,
    without,
)

DUAL = ("10.77.0.0/24", "fd77::/64")
MAC = "00:16:3e:00:00:01"
MODES = [NAT, ISOLATED, ROUTE]


def lines(mode: Mode, **more: object) -> list[str]:
    return services(network("lab", mode, DUAL, **more))[0].configuration.splitlines()


def test_a_nat_network_reads_like_this() -> None:
    assert lines(NAT) == [
        "# dnsmasq(8) for guests on xn-lab: written by xennetd, which writes over any change.",
        "user=dnsmasq",
        "bind-dynamic",
        "interface=xn-lab",
        "except-interface=lo",
        "no-hosts",
        "hostsdir=/var/lib/xennetd/xn-lab/names",
        "local=/lab.internal/",
        "rev-server=10.77.0.0/24",
        "rev-server=fd77::/64",
        "domain-needed",
        "bogus-priv",
        "dhcp-range=10.77.0.0,static,255.255.255.0,12h",
        "dhcp-option=option:dns-server,10.77.0.1",
        "dhcp-option=option:domain-name,lab.internal",
        "dhcp-option=option:router,10.77.0.1",
        "dhcp-range=fd77::,ra-stateless,64,30m",
        "enable-ra",
        "dhcp-option=option6:dns-server,[fd77::1]",
        "dhcp-option=option6:domain-search,lab.internal",
        "dhcp-authoritative",
        "dhcp-ignore=tag:!known",
        "dhcp-ignore-names",
        "dhcp-hostsdir=/var/lib/xennetd/xn-lab/hosts",
        "dhcp-leasefile=/var/lib/xennetd/xn-lab/leases",
        "dhcp-lease-max=65536",
        "quiet-dhcp",
        "quiet-dhcp6",
        "quiet-ra",
    ]


def test_an_isolated_network_has_no_upstream_and_no_router() -> None:
    found = lines(ISOLATED)
    assert set(lines(NAT)) - set(found) == {"dhcp-option=option:router,10.77.0.1"}
    assert set(found) - set(lines(NAT)) == {"no-resolv", "dhcp-option=option:router", "ra-param=xn-lab,0,0"}


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subnets", [DUAL, DUAL[:1], DUAL[1:], ("10.0.0.0/9",), ("10.77.0.4/30", "fd77:1:2:3::/64")])
@pytest.mark.parametrize("ra", ["slaac", "stateful", "off"])
def test_dnsmasq_takes_it(tmp_path: Path, mode: Mode, subnets: tuple[str, ...], ra: str) -> None:
    for service in services(network("lab", mode, subnets, ra=ra, gateway="link-local")):
        file = tmp_path / "dnsmasq.conf"
        file.write_text(written(tmp_path, service.configuration))
        tested = subprocess.run(
            ["dnsmasq", "--test", f"--conf-file={file}"], capture_output=True, text=True, check=False
        )
        assert tested.returncode == 0, tested.stderr


@pytest.mark.parametrize("mode", MODES)
def test_the_link_that_it_serves_is_read_back(mode: Mode) -> None:
    found = network("lab", mode, DUAL)
    assert {served_link(service.configuration) for service in services(found)} == {found.served_link} == {"xn-lab"}


def test_a_long_name_has_a_link_too() -> None:
    found = network("a-network-with-a-long-name", ROUTE).served_link
    assert len(found) < 16
    assert found != network("a-network-with-a-longer-name", ROUTE).served_link


def test_only_the_private_address_of_a_routed_network_has_a_prefix() -> None:
    gateway4, gateway6, link_local, private = unported_addresses(network("lab", ROUTE, DUAL))
    assert (str(gateway4), str(gateway6), str(link_local)) == ("10.77.0.1/32", "fd77::1/128", "fe80::1/64")
    assert isinstance(private.network, IPv6Network)
    assert private.network.subnet_of(IPv6Network("fd00::/8"))
    assert private.network.prefixlen == 64


def test_a_guests_files() -> None:
    host = told("lab", MAC, "10.77.0.5", "10.77.0.6", "fd77::5", name="web.lab.internal")
    assert host_file(host) == "00:16:3e:00:00:01,10.77.0.5,[fd77::5]\n"
    assert names_file(host) == "".join(f"{each} web.lab.internal web\n" for each in host.addresses)
    assert names_file(told("lab", MAC, "10.77.0.5")) == "# 10.77.0.5\n"


@given(
    st.lists(st.ip_addresses(), max_size=4), st.none() | st.from_regex(r"[a-z0-9]{1,9}\.lab\.internal", fullmatch=True)
)
def test_a_guest_is_read_back_from_its_file(addresses: list[IPv4Address], name: str | None) -> None:
    host = DhcpHost("xn-lab", MAC, tuple(addresses), name if addresses else None)
    assert host_of("xn-lab", MAC, names_file(host)) == host


@given(st.text())
def test_a_file_that_is_none_of_ours_is_no_guest_or_a_guest(untrusted: str) -> None:
    host_of("xn-lab", MAC, untrusted)


@given(st.text())
def test_any_lease_file_is_read(untrusted: str) -> None:
    leases(untrusted)


LEASES = """\
1795423151 00:16:3e:00:00:01 10.91.0.5 * 01:00:16:3e:00:00:01
1795423151 00:16:3e:00:00:02 10.91.0.6 * *
duid 00:01:00:01:32:96:0f:6c:3a:51:35:3f:17:22
1795381838 1040187393 fd91::5 * 00:01:00:01:32:96:0f:c6:00:16:3e:00:00:01
1795423151 00:16:3e:00"""


def test_a_lease_file_is_read_by_address_and_cut_lines_are_not() -> None:
    found = {str(address): lease.mac for address, lease in leases(LEASES).items()}
    assert found == {"10.91.0.5": MAC, "10.91.0.6": "00:16:3e:00:00:02", "fd91::5": None}


def test_leases_are_struck_out_by_address() -> None:
    assert without(LEASES, []) == LEASES
    left = without(LEASES, [ip_address("10.91.0.5"), ip_address("fd91::5")])
    assert set(map(str, leases(left))) == {"10.91.0.6"}
    assert "duid 00:01" in left


def test_a_lease_is_struck_out_in_whatever_form_its_address_is_written() -> None:
    text = "1795381838 1040187393 fd91:0::5 * 00:01\r1795381838 7 ::10.91.0.5 * 00:01\n"
    assert without(text, leases(text)) == ""


@pytest.mark.parametrize("name", ["web-1", "WEB", "7", "a" * 63])
def test_a_name_that_is_a_label(name: str) -> None:
    assert dns_label(name) == name.lower()


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web_1", "web-1"),
        ("Web 1", "web-1"),
        ("host.example.com", "host"),
        ("_web_", "web"),
        ("web\n", "web"),
        ("10.0.0.1 gw", "10"),
        ("w\xe9b", "w-b"),
        ("a" * 64, "a" * 63),
        ("a" * 62 + "_b", "a" * 62),
    ],
)
def test_the_label_that_comes_next_to_a_name(name: str, label: str) -> None:
    assert dns_label(name) == label


@pytest.mark.parametrize("name", ["", "-", "_._", ".example.com", "\xe9"])
def test_a_name_of_which_no_label_can_be_made(name: str) -> None:
    assert dns_label(name) is None


@given(st.text())
def test_whatever_the_name_is_the_label_is_one_and_stays_as_it_is(name: str) -> None:
    label = dns_label(name)
    if label is not None:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label)
        assert dns_label(label) == label


def test_the_digest_is_of_all_but_the_line_that_holds_it() -> None:
    text = written(Path("/var/lib/xennetd/xn-lab"), "interface=xn-lab\n")
    assert text.endswith(f"pid-file=/var/lib/xennetd/xn-lab/{digest(text.encode())}.pid\n")
    assert digest(text.encode()) == digest(b"interface=xn-lab\n") != digest(b"interface=xn-other\n")


@pytest.mark.skipif(shutil.which("systemd-escape") is None, reason="systemd-escape is not installed")
@pytest.mark.parametrize("name", ["xn-lab", "web-tier", "a.b_c", "xn-lab:ipv6", "7", "a--b", "x.-"])
def test_a_units_name_is_escaped_as_systemd_does(name: str) -> None:
    command = ["systemd-escape", "--template=xennetd-dnsmasq@.service", name]
    assert unit(name) == subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_an_address_with_a_scope_is_no_address_of_a_guest() -> None:
    assert leases("1795947728 7012352 ::1%\udc81 * 00:01:00:01\n") == {}
    assert host_of("xn-lab", "00:16:3e:00:03:00", "::1%\udc81 a.b a") is None
