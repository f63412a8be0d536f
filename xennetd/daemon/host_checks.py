"""Checks the host for what affects the daemon: the stock scripts' hooks, `xl devd`, packages that are not installed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from xennetd.daemon.toolstack.hooks import find_hooks
from xennetd.dnsmasq.process import find_dnsmasq
from xennetd.kernel.links import Links
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.configuration import Policy
from xennetd.model.marks import BRIDGE_GROUP, GUEST_GROUP
from xennetd.model.value import replace
from xennetd.nft import library
from xennetd.policy.host_notes import HostNotes


def host_notes(policy: Policy, links: Links | None = None) -> HostNotes:
    """Return the facts about the host that `policy.check.check` needs for this policy.

    Without `links`, facts that concern single networks only are left out: the host's links, and missing packages. The
    daemon starts without them. It reports them when it makes these networks, and serves all other guests meanwhile.
    """
    notes = HostNotes() if links is None else not_installed()
    notes = replace(notes, hooks=find_hooks(), xl_devd=policy.daemon.devd and xl_devd_runs())
    if links is None:
        return notes
    return replace(
        notes,
        bridges=frozenset(bridge.name for bridge in links.bridges()),
        links=frozenset(link.name for link in links),
        addresses={
            link.name: link.addresses
            for link in links
            if link.addresses and link.group not in (BRIDGE_GROUP, GUEST_GROUP)
        },
    )


def not_installed() -> HostNotes:
    """Return which optional packages this host lacks, as `policy.check.lacking` needs it."""
    no_dnsmasq = "" if find_dnsmasq() is not None else "dnsmasq is not installed: apt install dnsmasq-base"
    return HostNotes(no_dnsmasq=no_dnsmasq, no_nftables=library.absent())


def read_links() -> Links | None:
    """Return the host's links as they are now, None if a netlink socket can't be opened."""
    try:
        requests = RequestSocket()
    except OSError:
        return None
    with closing(requests):
        links = Links()
        links.load(requests.dump())
        return links


def xl_devd_runs(proc: Path = Path("/proc")) -> bool:
    """Return whether `xl devd` runs in this domain, which would serve the same backends (xl(1))."""
    for process in proc.iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) > 1 and words[0].rpartition(b"/")[2] == b"xl" and b"devd" in words[1:]:
                return True
    return False
