"""Checks the host for what affects the daemon: the stock scripts' hooks, `xl devd`, packages that are not installed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from xennetd.daemon.control_path import unfit
from xennetd.daemon.host_sockets import listening
from xennetd.daemon.managers import read_claims
from xennetd.daemon.root_link import RootLinks, root_links
from xennetd.daemon.toolstack.hooks import find_hooks
from xennetd.dnsmasq.process import find_dnsmasq
from xennetd.kernel.links import Links
from xennetd.kernel.sockets import RequestSocket
from xennetd.model.configuration import Policy
from xennetd.model.link import Link
from xennetd.model.value import replace
from xennetd.nft import library
from xennetd.policy.files import exposed
from xennetd.policy.host_notes import HostNotes


def host_notes(policy: Policy, links: Iterable[Link] | None = None) -> HostNotes:
    """Return the facts about the host that `policy.check.check` needs for this policy.

    Without `links`, as at a start of the daemon, facts are left out that must keep no guest from its network. These are
    facts that concern single networks only: the host's links, and missing packages. The daemon reports them when it
    makes these networks, and serves all other guests meanwhile. And files that others may write are not refused at a
    start, since an upgrade must not take every guest off the network: `curable` reports them in `status`.
    """
    notes = HostNotes() if links is None else curable(policy)
    notes = replace(notes, hooks=find_hooks(), xl_devd=policy.daemon.devd and xl_devd_runs())
    if links is None:
        return notes
    return replace(
        notes,
        bridges=frozenset(link.name for link in links if link.kind == "bridge"),
        links=frozenset(link.name for link in links),
        addresses={link.name: link.addresses for link in links if link.addresses and not link.is_own},
        listening=_listening(policy, links),
    )


def curable(policy: Policy) -> HostNotes:
    """Return the facts that may change while the policy is in force: missing packages, files that others may write."""
    return replace(not_installed(), exposed=exposed(policy.files))


def all_host_notes(policy: Policy) -> HostNotes:
    """Return `host_notes` with all that a check outside the daemon has the time for: links, and the control socket."""
    links = read_links()
    root = RootLinks()
    if links is not None and policy.topology:
        with suppress(OSError):
            root = root_links(links, policy.topology)
    claims = read_claims({link.index: link.name for link in links or ()}) if policy.topology else ()
    notes = replace(host_notes(policy, links), no_control=unfit(policy.daemon.control), claims=claims)
    return replace(notes, root_links=root.names, root_unknown=root.unknown)


def not_installed() -> HostNotes:
    """Return which optional packages this host lacks, as `policy.check.lacking` needs it."""
    no_dnsmasq = "" if find_dnsmasq() is not None else "dnsmasq is not installed: apt install dnsmasq-base"
    return HostNotes(no_dnsmasq=no_dnsmasq, no_nftables=library.absent())


def _listening(policy: Policy, links: Iterable[Link]) -> frozenset[tuple[str, int]]:
    """Return the `listening` ports if the policy forwards any. Our own bridges and guests' links are not outside."""
    if not any(network.forwards for network in policy.networks.values()):
        return frozenset()
    inside = (link for link in links if link.is_own)
    return listening({address.ip for link in inside for address in link.addresses})


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
