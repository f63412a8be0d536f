"""Network namespaces: the host's, in which the test itself lives, and one for each guest.

`Host` is a network and a mount namespace that the calling thread enters, and leaves on `close`. In it /sys shows its
own links (the stock scripts read it), /run, /var/log and /var/lib/xennetd are empty, and /etc and /var/lib can be
written without anybody noticing; /etc/xen/scripts holds the stock scripts. Threads and programs started meanwhile are
in it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

from tests.bed import xen
from tests.bed.rtnl import Rtnl

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

TUNSETIFF = 0x400454CA
IFF_TAP = 0x2
IFF_NO_PI = 0x1000

FE_FF = "fe:ff:ff:ff:ff:ff"
"""The MAC address netback gives every vif."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), "setns")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    arguments = (
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(_libc.mount(*arguments), f"mount {target}")


def _current(kind: str) -> int:
    return os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


class NetNs:
    """A network namespace, its loopback up. `with namespace:` puts the calling thread and what it starts in it."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        before = _current("net")
        try:
            _unshare(CLONE_NEWNET)
            self.fd = _current("net")
            self.rtnl = Rtnl()
            self.rtnl.set("lo", up=True)
        finally:
            _setns(before, CLONE_NEWNET)
            os.close(before)
        self._before: list[int] = []

    def __enter__(self) -> NetNs:
        self._before.append(_current("net"))
        _setns(self.fd, CLONE_NEWNET)
        return self

    def __exit__(self, *exc: object) -> None:
        before = self._before.pop()
        _setns(before, CLONE_NEWNET)
        os.close(before)

    def close(self) -> None:
        """Let go of it: the kernel removes it and its links once no program is in it any more."""
        self.rtnl.close()
        os.close(self.fd)

    def run(self, *command: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program in it, with its output captured."""
        with self:
            return subprocess.run(command, check=check, timeout=timeout, capture_output=True, text=True)

    def links(self) -> dict[str, dict[str, Any]]:
        """Every link by name, as `ip -json -details link` describes it."""
        found = json.loads(self.run("ip", "-json", "-details", "link", "show").stdout)
        return {link["ifname"]: link for link in found}

    def link(self, name: str) -> dict[str, Any] | None:
        """One link as `ip -json -details` describes it, None where there is none of that name."""
        shown = self.run("ip", "-json", "-details", "-statistics", "link", "show", "dev", name, check=False)
        return None if shown.returncode else json.loads(shown.stdout)[0]

    def addresses(self, name: str) -> list[str]:
        """A link's addresses with their prefix lengths, IPv6 link-local ones included."""
        shown = json.loads(self.run("ip", "-json", "address", "show", "dev", name).stdout)
        return [f"{address['local']}/{address['prefixlen']}" for link in shown for address in link["addr_info"]]

    def ping(self, address: str, count: int = 1, interval: float = 0.2, wait: float = 2.0) -> bool:
        """Whether every one of `count` pings was answered."""
        command = ("ping", "-q", "-c", str(count), "-i", str(interval), "-W", str(wait), address)
        ping = self.run(*command, check=False)
        return ping.returncode == 0 and " 0% packet loss" in ping.stdout


class Tap:
    """A real tap device, there for as long as this object is open: what QEMU makes for an emulated NIC."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))

    def send(self, frame: bytes) -> None:
        """Send an Ethernet frame as the guest; OSError EIO while the tap is down."""
        os.write(self.fd, frame)

    def close(self) -> None:
        os.close(self.fd)


class Host(NetNs):
    """dom0's, or a driver domain's, own namespaces; the calling thread is in them from here until `close`."""

    def __init__(self) -> None:
        xen.require_root()
        xen.program("ip", "iproute2")
        self._working_directory = os.getcwd()
        self._outside = {kind: _current(kind) for kind in ("net", "mnt")}
        _unshare(CLONE_NEWNS)
        try:
            super().__init__("host")
            _setns(self.fd, CLONE_NEWNET)
            self._mount_own()
        except BaseException:
            self._leave()
            raise
        self._guests: list[NetNs] = []
        self._taps: list[Tap] = []

    def _mount_own(self) -> None:
        _mount("none", "/", flags=MS_REC | MS_PRIVATE)
        _mount("sysfs", "/sys", "sysfs")
        _mount("tmpfs", "/run", "tmpfs", options="mode=755")
        _mount("tmpfs", "/var/log", "tmpfs", options="mode=755")
        made = ("upper", "work", "lib", "made")
        others = ("/run/netns", "/run/lock", "/run/xen", "/var/log/xen")
        for directory in (*(f"/run/bed/{each}" for each in made), *others):
            Path(directory).mkdir(parents=True)
        lower = ["/etc"]
        with contextlib.suppress(xen.Missing):
            # .../etc/xen/scripts of an unpacked Xen, beneath the machine's own /etc.
            unpacked = xen.find().scripts.parents[1].resolve()
            lower += [str(unpacked)] if unpacked != Path("/etc") else []
        # As systemd sets it; the kernel's own default, 10, would make the journal's socket full at once.
        Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512")
        options = f"lowerdir={':'.join(lower)},upperdir=/run/bed/upper,workdir=/run/bed/work"
        _mount("overlay", "/etc", "overlay", options=options)
        options = "lowerdir=/var/lib,upperdir=/run/bed/lib,workdir=/run/bed/made"
        _mount("overlay", "/var/lib", "overlay", options=options)
        Path("/var/lib/xennetd").mkdir(exist_ok=True)
        _mount("tmpfs", "/var/lib/xennetd", "tmpfs", options="mode=755")

    def __enter__(self) -> Host:
        super().__enter__()
        return self

    def close(self) -> None:
        """Leave, and let go of all that was made in it. Programs and threads in it must have ended."""
        for tap in self._taps:
            with contextlib.suppress(OSError):
                tap.close()
        for guest in self._guests:
            guest.close()
        super().close()
        self._leave()

    def _leave(self) -> None:
        # A thread may enter a mount namespace only while it shares its root and working directory with no other.
        _unshare(CLONE_FS)
        _setns(self._outside["net"], CLONE_NEWNET)
        _setns(self._outside["mnt"], CLONE_NEWNS)
        os.chdir(self._working_directory)
        for descriptor in self._outside.values():
            os.close(descriptor)

    # What is in it

    def guest(self, name: str) -> NetNs:
        """A namespace to play a guest, or a machine on the wire; `ip netns exec NAME` works within the host."""
        guest = NetNs(name)
        target = Path("/run/netns") / name
        target.touch()
        _mount(f"/proc/self/fd/{guest.fd}", str(target), flags=MS_BIND)
        self._guests.append(guest)
        return guest

    def bridge(self, name: str, *, mtu: int | None = None, address: str | None = None) -> None:
        """A bridge, up, with no port yet. Without an MTU given it follows its ports, as Linux bridges do."""
        self.rtnl.add_bridge(name)
        self.rtnl.set(name, up=True, mtu=mtu)
        if address:
            self.rtnl.add_address(name, address)

    def uplink(self, bridge: str, name: str = "eth0", *, address: str = "10.0.0.254/24", mtu: int = 1500) -> NetNs:
        """Give `bridge` the port `name`, wired to a machine outside that has `address`, which is returned."""
        outside = self.guest(f"beyond-{name}")
        self.rtnl.add_veth(name, "eth0", outside.fd)
        for namespace, link in ((self, name), (outside, "eth0")):
            namespace.rtnl.set(link, mtu=mtu, up=True)
        self.rtnl.set(name, master=bridge)
        outside.rtnl.add_address("eth0", address)
        return outside

    def tap(self, name: str) -> Tap:
        """A tap device such as `vif1.0-emu`, down and with a MAC address of the kernel's choice."""
        with self:
            tap = Tap(name)
        self._taps.append(tap)
        return tap
