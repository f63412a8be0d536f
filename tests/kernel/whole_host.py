"""`whole_host`: all that a host holds because of xennetd and its guests, in lines that two worlds can be compared by.

What differs between two hosts that are alike is left out: the indexes of links, handles, digests of indexes, and what
the kernel makes of a carrier.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.bed.guest import Bed
from tests.bed.state import host_state
from tests.bed.toolstack import Vif

STATE = Path("/var/lib/xennetd")
RUNTIME = Path("/run/xennetd")

_LEFT_OUT = r"fe80|ff00|^nft |dev xn-.* proto kernel|dev \S+ proto kernel metric 256|^file "
"""Lines of `host_state` about a carrier, and what is told in another form here."""

_INDEXES = ((r"^(ip -oneline (?:link|address) show): \d+: ", r"\1: "), (r"@if\d+", ""), (r" link-netnsid \d+", ""))
_PORT = ("isolated", "hairpin", "learning", "flood", "guard", "mcast_flood", "neigh_suppress", "locked")
_PIDS = re.compile(r"[0-9a-f]{16}\.pid")


def link_names(bed: Bed) -> dict[str, str]:
    """The names of the links by index."""
    return {str(link["ifindex"]): name for name, link in bed.host.links().items()}


def kernel_lines(bed: Bed) -> Iterator[str]:
    """Addresses, routes, rules, neighbours, sysctls, and the properties of every link."""
    names = link_names(bed)
    for line in host_state(bed.host, without=_LEFT_OUT):
        line = re.sub(
            r"(alias xennetd:\S+:)(\d+)", lambda alias: alias[1] + names.get(alias[2], "a link that is gone"), line
        )
        for pattern, plain in _INDEXES:
            line = re.sub(pattern, plain, line)
        yield line
    for name, link in bed.host.links().items():
        slave = link.get("linkinfo", {}).get("info_slave_data", {})
        shown = {key: link.get(key) for key in ("mtu", "master", "group", "address", "inet6_addr_gen_mode", "altnames")}
        flags = sorted(set(link["flags"]) - {"LOWER_UP", "NO-CARRIER"})
        yield f"link {name}: {shown} {flags} { {key: slave[key] for key in _PORT if key in slave} }"


def nft_lines(bed: Bed) -> Iterator[str]:
    """The tables: chains and rules in their order, sets and maps by element, a link by its name."""
    names = link_names(bed)
    listed = json.loads(bed.host.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    for item in listed:
        ((kind, content),) = item.items()
        content.pop("handle", None)
        elements = content.pop("elem", []) if kind in ("set", "map") else []
        if kind != "metainfo":
            yield f"nft {kind} {json.dumps(content, sort_keys=True)}"
        for element in elements:
            yield f"nft element of {content['name']} {_element(content['name'], element, names)}"


def _element(name: str, element: Any, names: dict[str, str]) -> str:
    if name == "saved_sysctls":
        (index, number), value = element[0]["concat"], element[1]
        return f"{names.get(str(index), index)} {number} = {value}"
    return json.dumps(element, sort_keys=True)


def file_lines() -> Iterator[str]:
    """The files of xennetd, with their contents."""
    for directory in (STATE, RUNTIME):
        for path in sorted(directory.rglob("*")):
            text = f"file {_PIDS.sub('DIGEST.pid', str(path))} {path.stat().st_mode:o}"
            if path.is_file() and path.suffix != ".pid" and path.name not in ("leases", "lock"):
                content = path.read_text(errors="replace")
                text += " " + _PIDS.sub("DIGEST.pid", re.sub(r"(# The index of its link: )\d+", r"\1N", content))
            yield text


def dnsmasq_pids() -> dict[int, str]:
    """The command lines of the dnsmasq processes in this network namespace, by process id."""
    ours = os.stat("/proc/thread-self/ns/net").st_ino
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"dnsmasq") and (process / "ns/net").stat().st_ino == ours:
                found[int(process.name)] = b" ".join(words).decode()
    return found


def xenstore_lines(bed: Bed, vifs: Iterable[Vif]) -> Iterator[str]:
    """The nodes of the vifs' backends and frontends."""
    for vif in vifs:
        for path in (vif.backend, vif.frontend):
            for node, value in bed.toolstack.xs.tree(path).items():
                yield f"node {path}/{node} = {value}"


def different(wanted: list[str], found: list[str]) -> list[str]:
    """Return the lines that are missing and those that are too many, each with a - or + in front."""
    missing, surplus = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    lines = [(line, "-") for line in missing.elements()] + [(line, "+") for line in surplus.elements()]
    return [f"{sign} {line}" for line, sign in sorted(lines)]


def whole_host(bed: Bed, vifs: Iterable[Vif] = ()) -> list[str]:
    """Return all lines, sorted."""
    lines = [
        *kernel_lines(bed),
        *nft_lines(bed),
        *file_lines(),
        *(f"process {line}" for line in dnsmasq_pids().values()),
        *xenstore_lines(bed, vifs),
    ]
    return sorted(lines)
