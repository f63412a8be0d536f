"""A Xen host to try xennetd on, where there is no Xen: `python -m tests.bed.sandbox`, by way of packaging/run.

Real are the kernel, xenstored, the hotplug scripts and xennetd; played are libxl and the two ends of each vif. `--once`
shows three guests and ends, 0 if all is as it should be. Otherwise the sandbox stays, prints what xennetd records, and
takes `guest create` and `guest destroy` from programs in its namespaces (packaging/run --enter).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from tests.bed import xen
from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.guest import Bed, Guest
from tests.bed.netns import Host, NetNs
from tests.bed.systemd import Fields, Journal
from tests.bed.toolstack import SCRIPTS, VifSpec
from tests.bed.xenstored import Xenstored

DIRECTORY = Path("/run/sandbox")
SOCKET = DIRECTORY / "toolstack"
ENTRANCE = xen.CACHE / "sandbox"
"""How `packaging/run --enter` finds a sandbox that stays: its process id, and the variables to set."""

NAMES = ("web", "db", "mail")
UPLINK = "10.0.0.254"

CONFIGURATION = (
    STAND_IN.rstrip() + "  # the sandbox only: veths with an alternative name stand in for netback's links\n"
    "\n# Try this, then: xennetctl reload\n"
    '#[[policy]]\n#match = { vm = "db" }\n#deny = "db is in quarantine"\n'
)

TOOLS = {"xennetd": "xennetd.daemon.main", "xennetctl": "xennetd.cli.main", "guest": "tests.bed.sandbox guest"}


class Sandbox:
    """The host, xennetd on it, and its guests by name."""

    def __init__(self, stack: ExitStack) -> None:
        self.xenstored = stack.enter_context(Xenstored())
        self.host = stack.enter_context(closing(Host()))
        self.bed = stack.enter_context(closing(Bed(self.xenstored, self.host)))
        self.journal = stack.enter_context(closing(Journal()))
        self.guests: dict[str, Guest] = {}
        self.host.bridge("xenbr0")
        self.beyond: NetNs = self.host.uplink("xenbr0", address=f"{UPLINK}/24")
        DIRECTORY.mkdir()
        _install_script()
        self.daemon = Daemon(self.xenstored, DIRECTORY, CONFIGURATION)
        stack.callback(self.daemon.close)
        _install_tools(self.daemon.environment)
        self.daemon.start()

    # Guests

    def create(self, name: str, spec: VifSpec) -> Guest:
        """A domain with one vif, which xennetd is now at work on."""
        guest = Guest(self.bed, name, spec)
        guest.namespace.rtnl.add_address("eth0", f"10.0.0.{guest.domain.domid}/24")
        return guest

    def attach(self, name: str) -> tuple[Guest, float]:
        """Create a guest that is up when this returns; also return how long its hotplug script took, in ms."""
        guest = self.create(name, VifSpec())
        result = guest.online()
        if result.status != 0:
            raise Failed(f"{guest.vif.netdev}: {result.output.strip()}")
        guest.connect()
        self.guests[name] = guest
        return guest, result.seconds * 1e3

    def time_stock(self, name: str) -> float:
        """Have Xen's own script attach a guest that does not stay, and return how long it took, in ms."""
        guest = self.create(name, VifSpec(script="vif-bridge"))
        result = guest.online()
        if result.status != 0:
            raise Failed(f"Xen's own vif-bridge failed for {guest.vif.netdev}: {result.output.strip()}")
        guest.destroy()
        return result.seconds * 1e3

    def order(self, words: list[str]) -> tuple[int, str]:
        """Do what `guest WORDS...` asks for, as xl would. Returns its exit status and output."""
        match words:
            case ["list"]:
                lines = [f"{name:12} {guest.domain.domid:3}  {_address(guest)}" for name, guest in self.guests.items()]
                return 0, "\n".join(lines)
            case ["create", name, *rest] if name not in self.guests and len(rest) < 2:
                return self._create(name, rest[0] if rest else "")
            case ["destroy", name] if name in self.guests:
                self.guests.pop(name).destroy(script=True)
                return 0, ""
            case ["create" | "destroy", name, *_]:
                return 1, f"there is {'a' if name in self.guests else 'no'} guest named {name}"
        return 2, "usage: guest list | create NAME [KEY=VALUE,...] | destroy NAME    (the keys are those of xl's vif=)"

    def _create(self, name: str, line: str) -> tuple[int, str]:
        keys = {field.name for field in fields(VifSpec)} - {"backend_domid"}
        given: dict[str, Any] = dict(term.partition("=")[::2] for term in line.split(",") if term)
        if unknown := sorted(given.keys() - keys):
            return 2, f"no vif= key {unknown[0]!r} (there are {' '.join(sorted(keys))})"
        if "mtu" in given and not given["mtu"].isdecimal():
            return 2, f"mtu is no number: {given['mtu']!r}"
        guest = self.create(name, VifSpec(**given | {"mtu": int(given.get("mtu", 1500))}))
        result = guest.online()
        if result.status != 0:
            guest.destroy()
            return 1, f"{result.output.strip()}\n{name} was not created"
        guest.connect()
        self.guests[name] = guest
        return 0, f"{name} is up: {guest.vif.netdev}, {_address(guest)}, script {result.seconds * 1e3:.1f} ms"

    # xennetd

    def revive(self) -> bool:
        """Do systemd's part: start xennetd again if it has ended. Returns whether it had."""
        try:
            self.daemon.wait(0.01)
        except subprocess.TimeoutExpired:
            return False
        self.daemon.start()
        return True

    def records(self) -> list[Fields]:
        """The audit records so far."""
        return [entry for entry in self.journal.entries if "XENNET_EVENT" in entry]


class Failed(Exception):
    """Something is not as it should be."""


def _address(guest: Guest) -> str:
    return f"10.0.0.{guest.domain.domid}"


def _install_script() -> None:
    """Put vif-xennetd and its links where packaging/install does: /etc is the sandbox's own."""
    script = Path(SCRIPTS) / "vif-xennetd"
    script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(xen.REPOSITORY / "conf" / "vif-xennetd", script)
    for mode in ("bridge", "route", "nat", "openvswitch"):
        link = script.with_name(f"vif-xennetd-{mode}")
        link.unlink(missing_ok=True)
        link.symlink_to(script.name)


def _install_tools(environment: dict[str, str]) -> None:
    """Make what `--enter` finds in PATH, and tell it where."""
    directory = DIRECTORY / "bin"
    directory.mkdir()
    for name, module in TOOLS.items():
        tool = directory / name
        tool.write_text(f'#!/bin/sh\nexport PYTHONPATH={xen.REPOSITORY}\nexec {sys.executable} -m {module} "$@"\n')
        tool.chmod(0o755)
    environment["PATH"] = f"{directory}:{environment['PATH']}"


# What is shown


def _heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}\n{'-' * len(text)}", flush=True)


def _show_attaches(sandbox: Sandbox) -> None:
    attached = [sandbox.attach(name) for name in NAMES]
    stock = [sandbox.time_stock(f"{name}-stock") for name in NAMES]
    took = {row["vif"]: row["duration_us"] / 1e3 for row in sandbox.daemon.ask("list") if row["duration_us"]}
    print(f"{'guest':6} {'vif':8} {'xennetd took':>14} {'its script took':>17} {'stock vif-bridge took':>23}")
    for (guest, script), stock_script in zip(attached, stock, strict=True):
        vif = guest.vif.netdev
        print(f"{guest.name:6} {vif:8} {took[vif]:11.2f} ms {script:14.2f} ms {stock_script:20.2f} ms", end="")
        print(f"   {stock_script / took[vif]:.0f} times, the script {stock_script / script:.0f} times as fast")


def _show_pings(sandbox: Sandbox) -> None:
    for one, other in itertools.permutations(sandbox.guests.values(), 2):
        _ping(one.name, one.namespace, other.name, _address(other))
    for guest in sandbox.guests.values():
        _ping(guest.name, guest.namespace, "beyond the uplink", UPLINK)


def _ping(name: str, namespace: NetNs, whom: str, address: str) -> None:
    # The first one may wait for ARP and for the bridge to learn.
    if not namespace.ping(address, count=2, interval=0.01):
        raise Failed(f"{name} can't ping {whom} ({address})")
    print(f"{name} -> {whom} ({address}): answered")


def _show_status(sandbox: Sandbox) -> None:
    _heading("$ xennetctl status")
    print(sandbox.daemon.ctl("status").stdout, end="", flush=True)
    if problems := json.loads(sandbox.daemon.ctl("status", "--json").stdout)["problems"]:
        raise Failed("; ".join(problems))


def _show_list(sandbox: Sandbox) -> None:
    _heading("$ xennetctl list")
    print(sandbox.daemon.ctl("list").stdout, end="", flush=True)
    connected = {row["vm"] for row in sandbox.daemon.ask("list") if row["state"] == "connected"}
    if connected != set(NAMES):
        raise Failed(f"connected are {sorted(connected)}, not {sorted(NAMES)}")


def _show_record(entry: Fields) -> None:
    print(f"{entry['XENNET_EVENT']:8} {entry['MESSAGE']}", flush=True)


def show(sandbox: Sandbox) -> None:
    """Three guests from start to ping, and all that xennetd says about them. Failed if anything is amiss."""
    version = sandbox.xenstored.xen.bin.parent.name.removeprefix("xen-")
    print("A Xen host without Xen: network and mount namespaces of their own, the real xenstored of Xen", version)
    print("and a bridge xenbr0 with the uplink eth0. libxl and the guests' drivers are played; xennetd is real.")
    _heading("Three guests start")
    _show_attaches(sandbox)
    _heading("They ping each other, and a machine beyond the uplink")
    _show_pings(sandbox)
    _show_status(sandbox)
    _show_list(sandbox)
    _heading("The audit records, as the journal gets them")
    guests = {guest.vif.netdev for guest in sandbox.guests.values()}
    records = [entry for entry in sandbox.records() if entry.get("XENNET_VIF") in guests]
    for entry in records:
        _show_record(entry)
    if len(records) < len(guests):
        raise Failed(f"{len(guests)} guests were attached, but there are {len(records)} audit records")
    print("\nThe first of them in full:")
    for key, value in sorted(records[0].items()):
        print(f"    {key}={value}")


# A sandbox that stays

HELP = """\
It stays open; Ctrl-C ends it. From another terminal:
  packaging/run --enter                                        a shell in it
  packaging/run --enter xennetctl list
  packaging/run --enter xennetctl monitor
  packaging/run --enter guest create shop                      one more guest
  packaging/run --enter guest create odd bridge=xenbr9         one that fails, and says why
  packaging/run --enter guest destroy db
  packaging/run --enter ip netns exec web-{domid} ping {address}
  packaging/run --enter ip link set vif{domid}.0 nomaster          break something: xennetd puts it right
  packaging/run --enter xenstore-ls -f
xennetd's configuration is {configuration} in there; after a change: xennetctl reload.
If you kill xennetd, it is started again as systemd would. What it records from now on:"""


def stay(sandbox: Sandbox) -> None:
    """Take orders until SIGINT or SIGTERM, and print each new audit record."""
    web, other = (sandbox.guests[name] for name in NAMES[:2])
    _heading("Your turn")
    print(HELP.format(domid=web.domain.domid, address=_address(other), configuration=sandbox.daemon.config), flush=True)
    shown = len(sandbox.records())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen()
        listener.settimeout(0.2)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                pass
            else:
                with connection:
                    _serve(connection, sandbox.order)
            if sandbox.revive():
                print("(xennetd had ended and was started again)", flush=True)
            for entry in sandbox.records()[shown:]:
                _show_record(entry)
                shown += 1


def _serve(connection: socket.socket, order: Callable[[list[str]], tuple[int, str]]) -> None:
    try:
        answer = order(json.loads(connection.makefile().readline()))
    except (ValueError, TimeoutError, OSError) as problem:
        answer = (1, str(problem))
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _ask(words: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(SOCKET))
        connection.sendall(json.dumps(words).encode() + b"\n")
        status, output = json.loads(connection.makefile().readline())
    if output:
        print(output, file=sys.stderr if status else sys.stdout)
    return int(status)


def _open_entrance(sandbox: Sandbox) -> None:
    """Let `packaging/run --enter` find us; a sandbox that is gone leaves a process id that is none of ours."""
    names = ("PATH", "LD_LIBRARY_PATH", "XENSTORED_PATH", "XENSTORED_RUNDIR")
    variables = {name: value for name, value in sandbox.daemon.environment.items() if name in names}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    ENTRANCE.write_text(f"sandbox={os.getpid()}\n{exports}")


def main() -> int:
    if sys.argv[1:2] == ["guest"]:
        return _ask(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="packaging/run", description="A Xen host to try xennetd on, without Xen.")
    parser.add_argument("--once", action="store_true", help="show it and end; the exit status is 0 if all went well")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            sandbox = Sandbox(stack)
            show(sandbox)
            if not arguments.once:
                _open_entrance(sandbox)
                stack.callback(ENTRANCE.unlink, missing_ok=True)
                stay(sandbox)
    except KeyboardInterrupt:
        print()
    except (Failed, xen.Missing, RuntimeError) as problem:
        print(f"\nNot as it should be: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
