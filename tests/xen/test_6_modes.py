"""One real guest in each mode, with an address by DHCP where there is one, and an "internet" beyond the uplink.

The uplink is a veth into a namespace; what is proven in the kernel lane with namespaces as guests is seen here with
netback, `xl create` and a guest's own kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xen.toolstack import Guest, do, links, master, ping, row, run, until

INTERNET = "203.0.113.1"
ROUTED = "198.51.100.7"
CONFIGURATION = Path("/etc/xennetd/conf.d/modes.toml")
NETWORKS = """
[network.lab]
mode = "nat"
subnets = ["10.77.0.0/24"]
uplink = "inet0"
dhcp = true
forward = [{ proto = "tcp", port = 8080, to = "in-nat:80" }]

[network.dmz]
mode = "route"
uplink = "inet0"
gateway = "link-local"

[network.storage]
mode = "isolated"
subnets = ["10.78.0.0/24"]
dhcp = true

[[policy]]
match = { vm = "in-nat" }
network = "lab"

[[policy]]
match = { vm = "in-route" }
network = "dmz"

[[policy]]
match = { vm = "in-isolated" }
network = "storage"
"""

# What a guest's DHCP client does with its lease.
_LEASED = """cat >/lease <<'X'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
for gateway in $router; do ip route add default via "$gateway"; done
X
chmod 755 /lease"""


@pytest.fixture(scope="module")
def internet() -> Iterator[None]:
    for command in (
        "netns add internet",
        "link add inet0 type veth peer name eth0 netns internet",
        "address add 203.0.113.2/24 dev inet0",
        "link set inet0 up",
        "-n internet address add 203.0.113.1/24 dev eth0",
        "-n internet link set eth0 up",
        f"-n internet route add {ROUTED}/32 via 203.0.113.2",
    ):
        do("ip", *command.split())
    CONFIGURATION.write_text(NETWORKS)
    do("systemctl", "reload", "xennetd")
    yield
    CONFIGURATION.unlink()
    do("systemctl", "reload", "xennetd")
    until(lambda: "xn-lab" not in links() and "xn-storage" not in links())
    do("ip", "link", "delete", "inet0")
    do("ip", "netns", "delete", "internet")
    left = do("ip", "route", "show", "proto", "120") + run("nft", "list", "table", "inet", "xennetd").output
    assert "masquerade" not in left
    assert ROUTED not in left


def lease(guest: Guest) -> str:
    """Have the guest ask for an address, and return it."""
    guest.run(f"ip address flush dev eth0; {_LEASED}")
    output = guest.run("udhcpc -i eth0 -n -q -f -t 20 -s /lease", timeout=120.0)
    return output.partition("lease of ")[2].partition(" ")[0]


def reaches(guest: Guest, address: str) -> bool:
    return " 0% packet loss" in guest.run(f"ping -c 2 -w 10 {address} || true")


def from_internet(address: str) -> bool:
    return run("ip", "netns", "exec", "internet", "ping", "-c", "2", "-w", "10", address).status == 0


def test_a_guest_behind_nat_is_given_an_address_and_reaches_the_internet(
    internet: None, guest: Callable[..., Guest]
) -> None:
    made = guest("in-nat").create().connected()
    address = lease(made)
    assert address.startswith("10.77.0.")
    shown = row(made.vif())
    assert shown is not None
    assert (shown["ips"], shown["network"], shown["mode"], master(made.vif())) == ([address], "lab", "nat", "xn-lab")
    assert reaches(made, INTERNET)
    assert not from_internet(address)
    made.run("(while :; do echo hello | nc -l -p 80; done) >/dev/null 2>&1 &")

    def answered() -> bool:
        """The forwarded port answers with what the guest says on its own."""
        command = ("busybox", "nc", "-w", "10", "203.0.113.2", "8080")
        return run("ip", "netns", "exec", "internet", *command).output == "hello\n"

    until(answered)
    made.destroy()
    made.gone()


def test_a_routed_guest_reaches_the_internet_and_is_reached_from_there(
    internet: None, guest: Callable[..., Guest]
) -> None:
    made = guest("in-route", f"ip={ROUTED}").create().connected()
    assert ROUTED in do("ip", "route", "show", "dev", made.vif(), "proto", "120")
    made.run(
        f"ip address flush dev eth0; ip address add {ROUTED}/32 dev eth0; ip route add 169.254.1.1 dev eth0; "
        "ip route add default via 169.254.1.1"
    )
    assert reaches(made, INTERNET)
    assert from_internet(ROUTED)
    # What it sends from an address that is not its own goes nowhere.
    made.run("ip address add 198.51.100.66/32 dev eth0")
    assert " 100% packet loss" in made.run(f"ping -c 2 -w 5 -I 198.51.100.66 {INTERNET} || true")
    made.destroy()
    made.gone()
    assert ROUTED not in do("ip", "route", "show", "proto", "120")


def test_an_isolated_guest_is_given_an_address_and_reaches_only_the_host(
    internet: None, guest: Callable[..., Guest]
) -> None:
    made = guest("in-isolated").create().connected()
    address = lease(made)
    assert address.startswith("10.78.0.")
    assert ping(address) == 1
    assert reaches(made, "10.78.0.1")
    made.run("ip route add default via 10.78.0.1")
    assert " 100% packet loss" in made.run(f"ping -c 2 -w 5 {INTERNET} || true")


def test_a_guest_of_the_nat_script_has_its_stock_address_without_any_configuration(
    internet: None, guest: Callable[..., Guest]
) -> None:
    made = guest("stock-nat", "script=vif-xennetd-nat,gatewaydev=inet0").create().connected()
    domid = made.domid
    made.run(
        f"ip address flush dev eth0; ip address add 10.{domid // 256}.{domid % 256}.1/16 dev eth0; "
        f"ip route add default via 10.{domid // 256}.{domid % 256}.128"
    )
    assert reaches(made, INTERNET)
