"""What lets the host forward between links, and nothing more than that.

IPv4 forwards what comes in by a link whose own `forwarding` is on. IPv6 does so only from Linux 6.17 on, where a link
has `force_forwarding`; before, `all/forwarding` is the one switch, and it makes every link stop heeding router
advertisements unless its `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst): the links that the host's own way
out depends on are set so first, or the host would lose its default route.
"""

from __future__ import annotations

from collections.abc import Iterable

from xennetd.model.link import HostView
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import RULESET, Keys, Sysctl
from xennetd.model.placement import LinkSysctl


def forwarding(version: int, uplinks: Iterable[str], host: HostView) -> list[Sysctl]:
    """Return what must be set so that packets of this IP version get in by these links, which are not guests'."""
    filtered = frozenset({RULESET})  # Before a link forwards, it is settled what it may forward.
    if version == 4:
        return [Sysctl(4, uplink, "forwarding", 1, filtered) for uplink in uplinks]
    if host.forces_ipv6:
        return [Sysctl(6, uplink, "force_forwarding", 1, filtered) for uplink in uplinks]
    way_out = host.default_uplink(6)
    heeding = _heeding(dict.fromkeys([*uplinks, *([way_out.name] if way_out is not None else [])]), host)
    return [*heeding, Sysctl(6, "all", "forwarding", 1, filtered | keys(heeding))]


def closed(link: str, host: HostView) -> list[Sysctl]:
    """Return what keeps all that comes in by this link of ours from going on, even without a firewall."""
    found = [Sysctl(4, link, "forwarding", 0)]
    return [*found, Sysctl(6, link, "force_forwarding", 0)] if host.forces_ipv6 else found


def proxying(version: int, uplink: str, host: HostView) -> list[Sysctl]:
    """Return what must be set so that the host answers for other addresses on its uplink (besides `forwarding`)."""
    if version == 4:
        return []
    heeding = _heeding([uplink], host)
    after = frozenset({RULESET}) | keys(heeding)
    return [*heeding, Sysctl(6, uplink, "forwarding", 1, after), Sysctl(6, uplink, "proxy_ndp", 1, after)]


def keys(sysctls: Iterable[Sysctl]) -> Keys:
    """Return the keys of sysctls, for others that come after them."""
    return frozenset(each.key for each in sysctls)


def _heeding(links: Iterable[str], host: HostView) -> list[Sysctl]:
    """Return what keeps links that heed router advertisements heeding them while they forward.

    With accept_ra = 1 a link heeds them unless it forwards, with 2 even so; one with 0 is to go on heeding none. On a
    bridge of ours nobody's advertisements are heeded: they would be a guest's.
    """
    views = ((name, host.link(name)) for name in links)
    theirs = [name for name, link in views if link is None or link.group != BRIDGE_GROUP]
    return [Sysctl(6, name, "accept_ra", 2, unless=(0,)) for name in theirs]


def guest_sysctls(host: HostView, *, ipv6: bool) -> tuple[LinkSysctl, ...]:
    """Return what must be set for a routed guest's link.

    A guest's router advertisements never configure the host. `ipv6` says that the guest has IPv6 addresses.
    """
    found = [(4, "forwarding", 1), (4, "rp_filter", 1), (4, "proxy_arp", 1)]
    if host.has_ipv6:
        found.append((6, "accept_ra", 0))
        if ipv6:
            found += [(6, "disable_ipv6", 0), (6, "forwarding", 1)]
            found += [(6, "force_forwarding", 1)] if host.forces_ipv6 else []
    return tuple(LinkSysctl(*each) for each in found)
