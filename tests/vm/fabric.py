"""Switches beyond the legs of a bond, and what is asked of the daemon about it."""

from __future__ import annotations

import json

from tests.vm.machine import Machine
from xennetd.cli.connection import call

GUEST, ROUTER = "10.100.0.5", "10.100.0.1"

MACS = {"leg0": "02:00:00:00:00:a0", "leg1": "02:00:00:00:00:a1"}

MOST_LOST = 20
"""Requests, of 20 a second. The machine is emulated: a look at the carriers is late there now and then."""


class Fabric:
    """Two switches, a and b, for a leg each, both connected to a core, where the router is in VLAN 100."""

    def __init__(self, host: Machine) -> None:
        self.host = host
        self.net = host.guest("fabric")
        for switch in ("core", "a", "b"):
            self.net.rtnl.add_bridge(switch)
            self.net.run("ip", "link", "set", "dev", switch, "up", "type", "bridge", "forward_delay", "0")
        for switch, leg in (("a", "leg0"), ("b", "leg1")):
            self.net.rtnl.add_veth(f"core-{switch}", f"{switch}-core", self.net.fd)
            self.net.rtnl.set(f"core-{switch}", master="core", up=True)
            self.net.rtnl.set(f"{switch}-core", master=switch, up=True)
            self.leg(leg, switch, MACS[leg])
        self.net.run("ip", "link", "add", "link", "core", "core.100", "up", "type", "vlan", "id", "100")
        self.net.rtnl.add_address("core.100", f"{ROUTER}/24")

    def leg(self, name: str, switch: str, mac: str | None = None) -> None:
        """Give the host a NIC, wired to a switch."""
        self.host.rtnl.add_veth(name, name, self.net.fd, address=mac)
        self.net.rtnl.set(name, master=switch, up=True)

    def group(self, mode: str, *settings: str) -> None:
        """Have both legs at one switch, which takes them for one port: what a bond without a backup needs."""
        self.net.run("ip", "link", "add", "team", "type", "bond", "mode", mode, "miimon", "50", *settings)
        for leg in ("leg0", "leg1"):
            self.net.run("ip", "link", "set", leg, "down")
            self.net.run("ip", "link", "set", leg, "master", "team")
        self.net.run("ip", "link", "set", "team", "master", "core", "up")

    def cut(self, leg: str) -> None:
        self.net.rtnl.set(leg, up=False)

    def heal(self, leg: str) -> None:
        self.net.rtnl.set(leg, up=True)

    def learned(self, mac: str) -> str | None:
        """The core's port behind which it knows a MAC."""
        shown = json.loads(self.net.run("bridge", "-json", "fdb", "show", "br", "core").stdout)
        return next((each["ifname"] for each in shown if each["mac"] == mac and each.get("state") != "permanent"), None)


def problems() -> list[str]:
    found: list[str] = call("/run/xennetd/control", "Status")["status"]["problems"]
    return found


def is_told(sentence: str) -> bool:
    return any(sentence in each for each in problems())
