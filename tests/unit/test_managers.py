"""What ifupdown, systemd-networkd, NetworkManager and netplan claim, by the files of a host."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xennetd.daemon.managers import read_claims
from xennetd.daemon.managers.host_files import HostFiles, ini
from xennetd.model.manager_claim import ManagerClaim, ManagerClaims

Write = Callable[[str, str], None]
Read = Callable[[], ManagerClaims]

NAMES = {2: "eth0", 3: "eth1", 4: "br0", 5: "bond0"}
INTERFACES = "/etc/network/interfaces"
STATE = "# This is private data. Do not parse.\nADMIN_STATE={}\nOPER_STATE=routable\nNETWORK_FILE={}\n"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(path: str, text: str) -> None:
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


@pytest.fixture
def claims(tmp_path: Path) -> Read:
    return lambda: read_claims(NAMES, HostFiles(tmp_path))


def networkd(write: Write, index: int, path: str, state: str = "configured") -> None:
    write(f"/run/systemd/netif/links/{index}", STATE.format(state, path))


def test_a_large_file_takes_no_time() -> None:
    began = time.process_time()
    assert len(ini("[Match]\n" + "A=\n" * 100_000)["Match"]["A"]) == 100_000
    assert time.process_time() - began < 5.0, "30 s where each line copies those before"


def test_a_host_without_other_managers(claims: Read) -> None:
    assert claims() == ()


def test_stanzas_of_ifupdown(write: Write, claims: Read) -> None:
    write("/usr/sbin/ifup", "")
    write(
        INTERFACES,
        "# eth9\nauto lo br0\niface lo inet loopback\n\nallow-hotplug eth0\niface eth0 inet manual\n"
        "iface br0 inet static\n    address 192.0.2.5/24\n    bridge_ports \\\n  eth0 eth1\niface br0 inet6 auto\n"
        "iface eth3 inet dhcp\niface eth4:1 inet static\niface eth5.7 inet manual\niface eth6 inet manual\n",
    )
    assert claims() == (
        ManagerClaim("ifupdown", "br0", (INTERFACES,), makes=True, addressing="static"),
        ManagerClaim("ifupdown", "eth0", (INTERFACES,), master="br0"),
        ManagerClaim("ifupdown", "eth1", (INTERFACES,), master="br0"),
        ManagerClaim("ifupdown", "eth3", (INTERFACES,), addressing="DHCP"),
        ManagerClaim("ifupdown", "eth4", (INTERFACES,), addressing="static"),
        ManagerClaim("ifupdown", "eth5.7", (INTERFACES,), makes=True),
        ManagerClaim("ifupdown", "eth6", (INTERFACES,)),
    )


def test_included_stanzas(write: Write, claims: Read) -> None:
    write("/usr/sbin/ifup", "")
    write(INTERFACES, "source /etc/network/interfaces.d/*.cfg\nsource-directory more\nsource /etc/network/none\n")
    write("/etc/network/interfaces.d/a.cfg", "iface a inet dhcp\nsource /etc/network/interfaces\n")
    write("/etc/network/interfaces.d/b.dpkg-old", "iface b inet dhcp\n")
    write("/etc/network/more/c", "iface c\n  address 192.0.2.7/24\n")
    write("/etc/network/more/d.bak", "iface d inet dhcp\n")
    assert claims() == (
        ManagerClaim("ifupdown", "a", ("/etc/network/interfaces.d/a.cfg",), addressing="DHCP"),
        ManagerClaim("ifupdown", "c", ("/etc/network/more/c",), addressing="static"),
    )


def test_ports_of_a_bond_of_ifupdown(write: Write, claims: Read) -> None:
    write("/sbin/ifup", "")
    write(INTERFACES, "iface bond0 inet manual\n bond-slaves none\niface eth0 inet manual\n bond-master bond0\n")
    assert claims() == (
        ManagerClaim("ifupdown", "bond0", (INTERFACES,), makes=True),
        ManagerClaim("ifupdown", "eth0", (INTERFACES,), master="bond0"),
    )


def test_a_link_that_is_up_by_the_stanza_of_another_name(write: Write, claims: Read) -> None:
    write("/sbin/ifup", "")
    write(INTERFACES, "iface home inet dhcp\n")
    write("/run/network/ifstate", "lo=lo\neth0=home\n")
    assert ManagerClaim("ifupdown", "eth0", (INTERFACES,), addressing="DHCP") in claims()


def test_files_that_ifupdown_has_left_behind_claim_nothing(write: Write, claims: Read) -> None:
    write(INTERFACES, "iface br0 inet dhcp\n")
    assert claims() == ()


def test_links_of_networkd(write: Write, claims: Read) -> None:
    directory = "/etc/systemd/network"
    write(f"{directory}/20-br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n")
    write(f"{directory}/20-br0.network", "[Match]\nName=br0\n[Network]\nDHCP=no\n[Address]\nAddress=192.0.2.5/24\n")
    write(f"{directory}/30-eth0.network", "[Match]\nName=eth0\n[Network]\nBridge=br0\n")
    write("/usr/lib/systemd/network/80-all.network", "[Match]\nName=*\n[Network]\nDHCP=ipv4\n")
    write(f"{directory}/80-all.network.d/keep.conf", "[Network]\nKeepMaster=yes\n")
    write("/usr/lib/systemd/network/90-tap.netdev", "[NetDev]\nName=tap0\n")
    write("/usr/lib/systemd/network/20-br0.netdev", "[NetDev]\nName=another\n")
    networkd(write, 2, f"{directory}/30-eth0.network")
    networkd(write, 3, "/usr/lib/systemd/network/80-all.network", "configuring")
    networkd(write, 4, f"{directory}/20-br0.network")
    networkd(write, 5, "/usr/lib/systemd/network/05-xennetd.network", "unmanaged")
    networkd(write, 77, f"{directory}/20-br0.network")
    maker = f"{directory}/20-br0.netdev"
    assert claims() == (
        ManagerClaim(
            "systemd-networkd",
            "br0",
            (f"{directory}/20-br0.network", maker),
            makes=True,
            addressing="static",
            master="",
        ),
        ManagerClaim("systemd-networkd", "eth0", (f"{directory}/30-eth0.network",), master="br0"),
        ManagerClaim("systemd-networkd", "eth1", ("/usr/lib/systemd/network/80-all.network",), addressing="DHCP"),
        ManagerClaim("systemd-networkd", "tap0", ("/usr/lib/systemd/network/90-tap.netdev",), makes=True),
    )


def test_networkd_that_has_not_run_claims_nothing(write: Write, claims: Read) -> None:
    write("/etc/systemd/network/20-br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n")
    assert claims() == ()


def test_the_file_of_a_state_is_read_in_networkds_directories_only(write: Write, claims: Read) -> None:
    write("/etc/secret", "[Network]\nDHCP=yes\n")
    networkd(write, 2, "/etc/systemd/network/../../secret")
    networkd(write, 3, "/etc/secret")
    assert {claim.addressing for claim in claims()} == {""}


def test_links_of_netplan_by_networkd(write: Write, claims: Read) -> None:
    run = "/run/systemd/network/10-netplan-"
    write("/etc/netplan/01-lan.yaml", "network:\n  bridges:\n    br0:\n      dhcp4: true\n")
    write("/etc/netplan/02-all.yaml", "network:\n  ethernets:\n    'all-en':\n      dhcp4: true\n")
    write(f"{run}br0.network", "[Match]\nName=br0\n[Network]\nDHCP=ipv4\n")
    write(f"{run}br0.netdev", "[NetDev]\nName=br0\nKind=bridge\n")
    write(f"{run}all-en.network", "[Match]\nName=e*\n[Network]\nDHCP=ipv4\n")
    networkd(write, 2, f"{run}all-en.network")
    networkd(write, 4, f"{run}br0.network")
    assert claims() == (
        ManagerClaim("netplan", "br0", ("/etc/netplan/01-lan.yaml",), makes=True, addressing="DHCP", master=""),
        ManagerClaim("netplan", "eth0", ("/etc/netplan/02-all.yaml",), addressing="DHCP", master=""),
    )


def test_links_of_network_manager(write: Write, claims: Read) -> None:
    etc, run = "/etc/NetworkManager/system-connections", "/run/NetworkManager"
    write("/etc/netplan/01-lan.yaml", "network:\n  ethernets:\n    eth1:\n      dhcp4: true\n")
    write(f"{etc}/lan.nmconnection", "[connection]\nuuid=u1\ntype=bridge\ninterface-name=br0\n[ipv4]\nmethod=manual\n")
    write(f"{etc}/port", "[connection]\nuuid=u2\ntype=ethernet\nmaster=u1\nslave-type=bridge\n")
    write(f"{etc}/later", "[connection]\nuuid=u3\ntype=bond\ninterface-name=bond9\n")
    write(f"{etc}/never", "[connection]\nuuid=u4\ntype=bond\ninterface-name=bond8\nautoconnect=false\n")
    write(f"{run}/system-connections/netplan-eth1.nmconnection", "[connection]\nuuid=u5\n[ipv4]\nmethod=auto\n")
    for index, state in (
        (2, "true\nconnection-uuid=u2"),
        (3, "true\nconnection-uuid=u5"),
        (4, "true\nconnection-uuid=u1"),
    ):
        write(f"{run}/devices/{index}", f"[device]\nmanaged={state}\nnm-owned=false\n")
    write(f"{run}/devices/5", "[device]\nmanaged=false\n")
    assert claims() == (
        ManagerClaim("NetworkManager", "bond9", (f"{etc}/later",), makes=True),
        ManagerClaim("NetworkManager", "br0", (f"{etc}/lan.nmconnection",), makes=True, addressing="static"),
        ManagerClaim("NetworkManager", "eth0", (f"{etc}/port",), master="br0"),
        ManagerClaim("netplan", "eth1", ("/etc/netplan/01-lan.yaml",), addressing="DHCP"),
    )


def test_network_manager_that_has_not_run_claims_nothing(write: Write, claims: Read) -> None:
    write("/etc/NetworkManager/system-connections/a", "[connection]\nuuid=u1\ntype=bridge\ninterface-name=br0\n")
    assert claims() == ()


def test_a_profile_that_is_not_in_force_yet(write: Write, claims: Read) -> None:
    profile = "/run/NetworkManager/system-connections/Wired connection 1.nmconnection"
    write(profile, "[connection]\nuuid=u1\ninterface-name=eth0\n[ipv4]\nmethod=auto\n")
    write("/run/NetworkManager/devices/2", "[device]\nmanaged=true\n")
    write("/run/NetworkManager/devices/3", "[device]\nmanaged=true\n")
    assert claims() == (ManagerClaim("NetworkManager", "eth0", (profile,), addressing="DHCP"),)


def test_a_profile_in_no_file(write: Write, claims: Read) -> None:
    write("/run/NetworkManager/devices/2", "[device]\nmanaged=true\nconnection-uuid=u9\n")
    assert claims() == (ManagerClaim("NetworkManager", "eth0", ("/run/NetworkManager/devices/2",)),)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert HostFiles(tmp_path).read("/zero") == ""


@pytest.mark.parametrize("junk", ["directory", "fifo", "loop", "bytes", "huge", "long"])
def test_junk_in_the_place_of_any_file_is_no_error(tmp_path: Path, write: Write, junk: str) -> None:
    write("/usr/sbin/ifup", "")
    paths = [
        INTERFACES,
        "/run/network/ifstate",
        "/run/systemd/netif/links/2",
        "/etc/systemd/network/10-a.netdev",
        "/etc/systemd/network/10-a.network.d/b.conf",
        "/run/NetworkManager/devices/2",
        "/etc/NetworkManager/system-connections/a",
        "/etc/netplan/a.yaml",
    ]
    for path in paths:
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        match junk:
            case "directory":
                file.mkdir()
            case "fifo":
                os.mkfifo(file)
            case "loop":
                file.symlink_to(file)
            case "bytes":
                file.write_bytes(
                    b"[\xff\0]\n=\n[]\nNETWORK_FILE=\0\nADMIN_STATE=configured\niface\niface \xff\nsource \0\n"
                )
            case "huge":
                file.touch()
                os.truncate(file, 1 << 40)
            case "long":
                file.write_text("source " + "/etc/network/interfaces " * 10_000)
    read_claims(NAMES, HostFiles(tmp_path))
