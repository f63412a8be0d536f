"""The sysctls that let the host forward between links. They switch on no more than that.

For IPv4 the kernel forwards packets that come in by a link whose own `forwarding` is on. For IPv6 it does so only from
Linux 6.17 on, where a link has `force_forwarding`. Before, `all/forwarding` is the only switch. With it on, every link
ignores router advertisements unless the link's `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst). So
`accept_ra` is set first on the links that the host's default route depends on, or the host would lose this route.
"""

from __future__ import annotations

from collections.abc import Iterable

from xennetd.model.link import HostView
from xennetd.model.objects import RULESET, Keys, Sysctl
from xennetd.model.placement import LinkSysctl


def forwarding(version: int, uplinks: Iterable[str], host: HostView) -> list[Sysctl]:
    """Return the sysctls for forwarding packets of this IP version that come in by `uplinks`."""
    filtered = frozenset({RULESET})  # Before a link forwards, the filter must be in force.
    if version == 4:
        return [Sysctl(4, uplink, "forwarding", 1, filtered) for uplink in uplinks]
    if host.forces_ipv6:
        return [Sysctl(6, uplink, "force_forwarding", 1, filtered) for uplink in uplinks]
    default = host.default_uplink(6)
    accept_ra = _accept_ra(dict.fromkeys([*uplinks, *([default.name] if default is not None else [])]), host)
    return [*accept_ra, Sysctl(6, "all", "forwarding", 1, filtered | keys(accept_ra))]


def closed(link: str, host: HostView) -> list[Sysctl]:
    """Return the sysctls that forbid forwarding packets that come in by `link`, a bridge that xennetd made.

    They hold even without the filter. For IPv6 this works only where the kernel has `force_forwarding`.
    """
    sysctls = [Sysctl(4, link, "forwarding", 0)]
    return [*sysctls, Sysctl(6, link, "force_forwarding", 0)] if host.forces_ipv6 else sysctls


def proxying(version: int, uplink: str, host: HostView) -> list[Sysctl]:
    """Return the sysctls, besides those of `forwarding`, for the host to answer for guests' addresses on its uplink.

    IPv4 needs none: the kernel answers for a proxy neighbour entry wherever it forwards (arp_process() of
    net/ipv4/arp.c).
    """
    if version == 4:
        return []
    accept_ra = _accept_ra([uplink], host)
    after = frozenset({RULESET}) | keys(accept_ra)
    return [*accept_ra, Sysctl(6, uplink, "forwarding", 1, after), Sysctl(6, uplink, "proxy_ndp", 1, after)]


def keys(sysctls: Iterable[Sysctl]) -> Keys:
    """Return the keys of `sysctls`, for the `after` of an object that must come after them."""
    return frozenset(sysctl.key for sysctl in sysctls)


def _accept_ra(links: Iterable[str], host: HostView) -> list[Sysctl]:
    """Return the sysctls that make links accept router advertisements while they forward, if they did before.

    With accept_ra = 1 a link accepts them unless it forwards; with 2 it always accepts them; with 0 it never does, and
    this stays so. xennetd's own bridges are left out: an advertisement there would be a guest's.
    """
    views = ((name, host.link(name)) for name in links)
    foreign = [name for name, link in views if link is None or not link.is_own_bridge]
    return [Sysctl(6, name, "accept_ra", 2, unless=(0,)) for name in foreign]


def guest_sysctls(host: HostView, *, ipv6: bool) -> tuple[LinkSysctl, ...]:
    """Return the sysctls of a routed guest's link. `ipv6` says that the guest has IPv6 addresses.

    `accept_ra` is 0: a guest's router advertisements must never configure the host.
    """
    sysctls = [(4, "forwarding", 1), (4, "rp_filter", 1), (4, "proxy_arp", 1)]
    if host.has_ipv6:
        sysctls.append((6, "accept_ra", 0))
        if ipv6:
            sysctls += [(6, "disable_ipv6", 0), (6, "forwarding", 1)]
            sysctls += [(6, "force_forwarding", 1)] if host.forces_ipv6 else []
    return tuple(LinkSysctl(*sysctl) for sysctl in sysctls)
