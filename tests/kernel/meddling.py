"""`Meddler`: other programs, and administrators, that change what xennetd has made. A soak has one."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.bed.guest import Bed
from tests.bed.toolstack import Vif
from tests.kernel.wait import eventually
from tests.kernel.whole_host import dnsmasq_pids

_SYSCTLS = ("forwarding", "rp_filter", "proxy_arp", "proxy_ndp", "accept_ra")

_BRIDGES = ("xenbr0", "xenbr1")

_NFT = (
    "delete table inet xennetd",
    "flush ruleset",
    "flush table inet xennetd",
    "add table inet xennetd { flags dormant; }",
    "flush set inet xennetd masquerade4",
    "flush map inet xennetd forward4",
    "add chain inet xennetd foreign",
)


class Meddler:
    """Each method does one thing at random, and returns what it was: an empty text if there was nothing to do."""

    def __init__(self, bed: Bed, random: Random) -> None:
        self._bed = bed
        self._random = random
        self._plain = self._settings()

    def nft(self) -> str:
        """Change the table, and wait until xennetd remembers there again what is recorded nowhere else."""
        if self._nft("list", "table", "inet", "xennetd") is None:
            return ""
        before = self._saved()
        change = self._random.choice(_NFT)
        if self._nft(change) is None:
            return ""
        with suppress(AssertionError):  # xennetd may have restored a setting meanwhile, and need not remember it.
            eventually(lambda: self._saved() >= before, 3.0)
        return change

    def sysctl(self) -> str:
        """Take back a setting that xennetd has made."""
        now = self._settings()
        changed = sorted(path for path, value in now.items() if value != self._plain_value(path))
        if not changed:
            return ""
        path = self._random.choice(changed)
        with suppress(OSError), self._bed.host:
            Path(path).write_text(self._plain_value(path))
        return f"{path} = {self._plain_value(path)}"

    def guest(self, vifs: Sequence[Vif]) -> str:
        """Change a guest's link. Its MTU is not among it: the guest is told of its MTU once, at its attach."""
        if not vifs:
            return ""
        vif = self._random.choice(vifs)
        name = f"vif-{vif.domid}-{vif.devid}"
        changes = (
            ("link", "set", name, "down"),
            ("link", "set", name, "nomaster"),
            ("link", "set", name, "master", "xenbr1"),
            ("link", "set", name, "group", "default"),
            ("address", "add", "198.18.0.1/32", "dev", name),
            ("address", "flush", "dev", name),
            ("route", "flush", "dev", name),
            ("neighbour", "flush", "dev", name, "nud", "permanent"),
        )
        return self._ip(*self._random.choice(changes))

    def bridge(self) -> str:
        """Change a bridge that xennetd has made."""
        ours = sorted(name for name in self._bed.host.links() if name.startswith("xn-"))
        if not ours:
            return ""
        name = self._random.choice(ours)
        changes = (
            ("link", "set", name, "down"),
            ("link", "delete", name),
            ("address", "flush", "dev", name),
            ("link", "set", name, "address", "02:00:00:00:00:77"),
            ("link", "set", name, "name", "aside"),
        )
        return self._ip(*self._random.choice(changes))

    def rename(self) -> str:
        """Give a bridge of the administrator's another name, or its own again."""
        name = self._random.choice(_BRIDGES)
        return self._rename(name, f"was-{name}") or self._rename(f"was-{name}", name)

    def name_again(self) -> None:
        """Give the administrator's bridges their own names again."""
        for name in _BRIDGES:
            self._rename(f"was-{name}", name)

    def proxy(self) -> str:
        """Delete an entry that has the host answer for an address. The kernel tells nobody: only a reload sees it."""
        shown = self._bed.host.run("ip", "neighbour", "show", "proxy").stdout.splitlines()
        if not shown:
            return ""
        address, _dev, link, *_ = self._random.choice(shown).split()
        return self._ip("neighbour", "delete", "proxy", address, "dev", link)

    def dnsmasq(self) -> str:
        """End a dnsmasq."""
        pids = dnsmasq_pids()
        if not pids:
            return ""
        pid = self._random.choice(sorted(pids))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return str(pids[pid])

    def _ip(self, *words: str) -> str:
        self._bed.host.run("ip", *words, check=False)
        return " ".join(words)

    def _rename(self, old: str, new: str) -> str:
        done = self._bed.host.run("ip", "link", "set", old, "name", new, check=False)
        return "" if done.returncode else f"{old} is now {new}"

    def _nft(self, *words: str) -> str | None:
        done = self._bed.host.run("nft", *words, check=False)
        return None if done.returncode else done.stdout

    def _saved(self) -> set[str]:
        listed = self._nft("list", "map", "inet", "xennetd", "saved_sysctls") or ""
        return {each.strip() for each in listed.partition("elements = {")[2].partition("}")[0].split(",")} - {""}

    def _settings(self) -> dict[str, str]:
        found = {}
        with self._bed.host:
            for version in (4, 6):
                for setting in _SYSCTLS:
                    for path in Path(f"/proc/sys/net/ipv{version}/conf").glob(f"*/{setting}"):
                        with suppress(OSError):
                            found[str(path)] = path.read_text().strip()
        return found

    def _plain_value(self, path: str) -> str:
        """The value from before xennetd: that of the link, or for a new link that of `default`."""
        directory, _, setting = path.rpartition("/")
        return self._plain.get(path) or self._plain[f"{directory.rpartition('/')[0]}/default/{setting}"]
