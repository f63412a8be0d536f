"""`HostState`: all that the host's kernel holds about its network, as lines, to be compared before and after."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

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
