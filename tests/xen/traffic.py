"""What two guests say to each other, and what their ports go through, while something happens to the host.

    with Pings(web, address) as pings, Ports(web.vif(), other) as ports:
        pings.mark("killed")
        ...
    assert (pings.lost, ports.changed(), ports.news) == (0, {}, [])

What is lost is said by the guest's kernel, which counts the echo requests that it sends and the replies that it gets.
ping is not asked: where an emulated host is short of time busybox's misses replies that its kernel has had (204 of 207
were answered, it said, when the kernel had sent 208 and received 208).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.xen.toolstack import Guest, links, until

INTERVAL = 0.05

_FILE = "/pings"
_GRACE = 3.0
_ANSWER = re.compile(r"([\d.]+) .*\bseq=(\d+) .*\btime=([\d.]+) ms")
_MARK = re.compile(r"([\d.]+) == (.*)")
_STATISTICS = ("rx_packets", "tx_packets", "rx_dropped", "tx_dropped", "rx_errors", "tx_errors")


def _shown(name: str) -> str:
    """Return a port as the monitor would show it."""
    listed = subprocess.run(["bridge", "link", "show", "dev", name], check=True, capture_output=True, text=True)
    return listed.stdout


@dataclass(slots=True)
class Pings:
    """One guest pings an address every 50 ms, from the beginning of `with` to its end. All times are the guest's."""

    guest: Guest
    address: str
    sent: dict[int, float] = field(default_factory=dict)  # seconds, of those that were answered
    took: dict[int, float] = field(default_factory=dict)  # milliseconds
    marks: list[tuple[str, float]] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    """What the guest's kernel has counted meanwhile."""
    summary: str = ""
    """What ping itself says at its end."""

    def __enter__(self) -> Pings:
        self.counted.subtract(self._counters())
        stamp = 'while read -r line; do read -r now _ </proc/uptime; echo "$now $line"; done'
        self.guest.run(f"rm -f {_FILE}; ping -i {INTERVAL} {self.address} 2>&1 | {stamp} >>{_FILE} &")
        until(lambda: self.guest.run(f"grep -c seq= {_FILE} || true").strip() not in ("", "0"))
        return self

    def mark(self, what: str) -> None:
        """Note that something happens now."""
        self.guest.run(f'read -r now _ </proc/uptime; echo "$now == {what}" >>{_FILE}')

    def __exit__(self, *exc: object) -> None:
        self.mark("end")
        self.guest.run("kill -INT $(pidof ping); while pidof ping >/dev/null; do sleep 0.1; done")
        self._count()
        for line in self.guest.run(f"cat {_FILE}", timeout=180).splitlines():
            if "transmitted" in line:
                self.summary = line
            elif answer := _ANSWER.match(line):
                number, took = int(answer[2]), float(answer[3])
                self.sent[number], self.took[number] = float(answer[1]) - took / 1000, took
            elif mark := _MARK.match(line):
                self.marks.append((mark[2], float(mark[1])))

    def _count(self) -> None:
        """Take the counters once every ping is answered, or three seconds after the end."""
        begun, deadline = self.counted, time.monotonic() + _GRACE
        while True:
            late = time.monotonic() > deadline
            self.counted = begun.copy()
            self.counted.update(self._counters())
            if late or self.lost <= 0:
                return

    def _counters(self) -> dict[str, int]:
        """Return the guest kernel's counters of ICMP (RFC 2011) and of its link."""
        text = self.guest.run("cat /proc/net/snmp; (cd /sys/class/net/eth0/statistics && grep . *)")
        names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Icmp: "))
        icmp = dict(zip(names, map(int, values), strict=True))
        return icmp | {name: int(value) for name, value in re.findall(r"^(\w+):(\d+)$", text, re.MULTILINE)}

    @property
    def lost(self) -> int:
        """How many pings nobody has answered until three seconds after the end."""
        return self.counted["OutEchos"] - self.counted["InEchoReps"]

    def answered_between(self, first: str, second: str) -> int:
        """Return how many pings were sent between two marks and answered."""
        marks = dict(self.marks)
        return sum(marks[first] < at < marks[second] for at in self.sent.values())

    def __str__(self) -> str:
        started = self.sent[min(self.sent)]
        lines = [f"{self.guest.name} pinged {self.address}: lost {self.lost}"]
        lines += [f"  {at - started:8.2f} s  {what}" for what, at in self.marks]
        lines.append(f"  ping: {self.summary}")
        lines.append("  its kernel: " + ", ".join(f"{name} {count}" for name, count in self.counted.items() if count))
        for number in sorted(set(range(max(self.sent))) - self.sent.keys()):
            before = max((each for each in self.sent if each < number), default=None)
            after = min((each for each in self.sent if each > number), default=None)
            around = f"{self._one(before, started)} and {self._one(after, started)}"
            lines.append(f"  ping missed {number}, between {around}")
        slowest = sorted(self.took, key=lambda number: -self.took[number])[:5]
        lines.append("  slowest: " + ", ".join(self._one(number, started) for number in slowest))
        return "\n".join(lines)

    def _one(self, number: int | None, started: float) -> str:
        if number is None:
            return "none"
        return f"{number} (sent at {self.sent[number] - started:.2f} s, took {self.took[number]:.0f} ms)"


class Ports:
    """Some ports from the beginning of `with` to its end: what the kernel tells of them, and what it counts."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._before: dict[str, dict[str, object]] = {}
        self._after: dict[str, dict[str, object]] = {}
        self.news: list[str] = []
        """Each change of one of the links, or of what the bridge has learned behind it.

        Some ten seconds after a guest has connected, the kernel tells of its port once more, just as it was.
        """

    def __enter__(self) -> Ports:
        self._output = tempfile.TemporaryFile("w+")
        self._monitor = subprocess.Popen(["bridge", "-timestamp", "monitor", "link", "fdb"], stdout=self._output)
        self._begin = self._quiet()
        self._before = self._look()
        self._shown = {" ".join(_shown(name).split()) for name in self.names}
        return self

    def _quiet(self) -> int:
        """Wait until the kernel has told of all that was before, which for a guest's carrier takes it a second or two.

        Returns how much there is of what the monitor has said until then.
        """
        deadline = time.monotonic() + 60
        since, size = time.monotonic(), 0
        while time.monotonic() < min(deadline, since + 4):
            time.sleep(0.2)
            now = os.fstat(self._output.fileno()).st_size
            if now != size:
                since, size = time.monotonic(), now
        return size

    def __exit__(self, *exc: object) -> None:
        self._after = self._look()
        assert self._monitor.poll() is None, "bridge monitor ended by itself"
        self._monitor.terminate()
        self._monitor.wait()
        self._output.seek(self._begin)
        timestamp = ""
        for line in self._output:
            if line.startswith("Timestamp:"):
                timestamp = line.removeprefix("Timestamp:").strip()
            elif any(name in line for name in self.names) and " ".join(line.split()) not in self._shown:
                self.news.append(f"{timestamp}: {line.strip()}")
        self._output.close()

    def changed(self) -> dict[str, tuple[object, object]]:
        """Return what is not as it was, of each port: (before, after). Packets that came through do not count."""
        return {
            f"{name} {what}": (before, self._after[name][what])
            for name in self.names
            for what, before in self._before[name].items()
            if before != self._after[name][what] and not what.endswith("_packets")
        }

    def __str__(self) -> str:
        lines = []
        for name in self.names:
            lines.append(f"{name} before: {self._before[name]}")
            lines.append(f"{name} after:  {self._after[name]}")
        return "\n".join([*lines, "news of them:", *(self.news or ["none"])])

    def _look(self) -> dict[str, dict[str, object]]:
        found = links()
        return {
            name: {
                **{what: found[name].get(what) for what in ("ifindex", "flags", "mtu", "master")},
                **{what: _sysfs(name, what) for what in ("carrier_changes", "brport/state")},
                **{what: _sysfs(name, f"statistics/{what}") for what in _STATISTICS},
            }
            for name in self.names
        }


def _sysfs(name: str, what: str) -> int:
    return int(Path(f"/sys/class/net/{name}/{what}").read_text(), 0)
