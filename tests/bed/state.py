"""`HostState`: all that the host's kernel holds about its network, as lines, to be compared before and after."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from tests.bed.netns import NetNs

_VOLATILE = re.compile(r"\b(?:expires|valid_lft|preferred_lft|used|timer|ref|probes|hoplimit) \S+")
_CARRIER = re.compile(r"\bNO-CARRIER,|,LOWER_UP\b| linkdown\b| state \S+")
"""What the kernel changes by itself up to a second after a link has come up."""

_CHANGING = ("stable_secret",)
"""Settings that can't be read until they are set."""

_COMMANDS = (
    ("ip", "-oneline", "link", "show"),
    ("ip", "-oneline", "address", "show"),
    ("ip", "-4", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "rule", "show"),
    ("ip", "neighbour", "show", "proxy"),
    ("ip", "neighbour", "show", "nud", "permanent"),
    ("nft", "list", "ruleset"),
)


def host_state(host: NetNs, *, without: str = "") -> list[str]:
    """Return every address, route, rule, fixed neighbour, nftables rule and setting of a namespace, a line each.

    `without` is a pattern (re.search) of lines to leave out, of a guest's own link, say.
    """
    lines = []
    for command in _COMMANDS:
        for line in host.run(*command).stdout.splitlines():
            lines.append(f"{' '.join(command)}: {_CARRIER.sub('', _VOLATILE.sub('', line)).rstrip()}")
    with host:
        lines += _settings()
        lines += (f"file {path}" for path in sorted(Path("/var/lib/xennetd").rglob("*")))
    return [line for line in lines if not without or not re.search(without, line)]


def _settings() -> list[str]:
    found = []
    for version in (4, 6):
        for file in sorted(Path(f"/proc/sys/net/ipv{version}/conf").glob("*/*")):
            if file.name not in _CHANGING:
                found.append(f"sysctl ipv{version} {file.parent.name}/{file.name} = {file.read_text().strip()}")
    return [*found, f"sysctl ip_forward = {Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"]


def changes(before: list[str], after: list[str]) -> list[str]:
    """Return the lines that went and came, each with a - or + in front."""
    different = difflib.ndiff(before, after)
    return [line for line in different if line[0] in "+-"]


def link_state(host: NetNs, link: str, n: int = -1) -> list[str]:
    """Return all that the kernel holds about a link, a line each, without what tells it from another link.

    `n` is the last number of its guest's addresses. Links that differ in nothing else have the same state.
    """
    lines = []
    (detail,) = json.loads(host.run("ip", "-json", "-d", "link", "show", "dev", link).stdout)
    lines += [f"link {key} {value}" for key, value in _flat(detail) if key not in _OF_THIS_LINK]
    for command in (
        ("ip", "-oneline", "address", "show", "dev", link),
        ("ip", "-4", "route", "show", "table", "all", "dev", link),
        ("ip", "-6", "route", "show", "table", "all", "dev", link),
        ("ip", "neighbour", "show", "dev", link, "nud", "permanent"),
        ("ip", "maddress", "show", "dev", link),
    ):
        lines += [f"{' '.join(command[1:3])} {line}" for line in host.run(*command).stdout.splitlines()]
    proxies = host.run("ip", "neighbour", "show", "proxy").stdout.splitlines()
    lines += [f"proxy {line}" for line in proxies if re.search(rf"[.:]{n}\b", line)]
    with host:
        for kind in ("ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"):
            for file in sorted(Path("/proc/sys/net", kind, link).iterdir()):
                if file.name != "stable_secret":
                    lines.append(f"{kind}/{file.name} = {file.read_text().strip()}")
    lines = [line.replace(link, "VIF") for line in lines]
    lines = [re.sub(r"^(maddress \w+) \d+:", r"\1", re.sub(rf"([.:]){n}\b", r"\1N", line)) for line in lines]
    return sorted(_PASSING.sub("", line).rstrip() for line in lines)


_OF_THIS_LINK = ("ifindex", "ifname", "link_index", "altnames.0", "link_netnsid", "min_mtu", "max_mtu")
_PASSING = re.compile(
    r"(?<=^-oneline address )\d+: |valid_lft.*|00:16:3e:[0-9a-f:]+|02:[0-9a-f:]{14}$| linkdown\b|\\ +$"
)


def _flat(value: Any, at: str = "") -> list[tuple[str, Any]]:
    """The leaves of a JSON value with their paths, without timers, port numbers and what the carrier changes."""
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in _flat(each, f"{at}.{key}" if at else key)]
    if isinstance(value, list):
        return [leaf for number, each in enumerate(value) for leaf in _flat(each, f"{at}.{number}")]
    if re.search(r"timer|\.(no|port_no|id|port_id|state|designated_port)$|operstate", at) or value in (
        "LOWER_UP",
        "NO-CARRIER",
    ):
        return []
    return [(re.sub(r"^flags\.\d+", "flags", at), value)]
