"""What lets the host forward between links, and nothing more than that.

IPv4 forwards what comes in by a link whose own `forwarding` is on. IPv6 does so only from Linux 6.17 on, where a link
has `force_forwarding`; before, `all/forwarding` is the one switch, and it makes every link stop heeding router
advertisements unless its `accept_ra` is 2 (Documentation/networking/ip-sysctl.rst): the links that the host's own way
out depends on are set so first, or the host would lose its default route.
"""

from __future__ import annotations

from collections.abc import Iterable

from xennetd.model.ground import Setting
from xennetd.model.link import HostView

_HEEDED = (1, 2)
"""Values of accept_ra with which router advertisements are heeded, the second even by a router."""


def has_ipv6(host: HostView) -> bool:
    """Return whether the kernel has IPv6 at all."""
    return host.setting(6, "all", "forwarding") is not None


def forces(host: HostView) -> bool:
    """Return whether IPv6 can be forwarded link by link."""
    return host.setting(6, "default", "force_forwarding") is not None


def forwarding(version: int, uplinks: Iterable[str], host: HostView) -> list[Setting]:
    """Return what must be set so that packets of this IP version get in by these links, which are not guests'."""
    if version == 4:
        return [Setting(4, uplink, "forwarding", 1) for uplink in uplinks]
    if forces(host):
        return [Setting(6, uplink, "force_forwarding", 1) for uplink in uplinks]
    way_out = host.default_uplink(6)
    heeding = dict.fromkeys([*uplinks, *([way_out.name] if way_out is not None else [])])
    return [*_heeding(heeding, host), Setting(6, "all", "forwarding", 1)]


def closed(link: str, host: HostView) -> list[Setting]:
    """Return what keeps all that comes in by this link of ours from going on, even without a firewall."""
    found = [Setting(4, link, "forwarding", 0)]
    return [*found, Setting(6, link, "force_forwarding", 0)] if forces(host) else found


def proxying(version: int, uplink: str, host: HostView) -> list[Setting]:
    """Return what must be set so that the host answers for other addresses on its uplink (besides `forwarding`)."""
    if version == 4:
        return []
    return [*_heeding([uplink], host), Setting(6, uplink, "forwarding", 1), Setting(6, uplink, "proxy_ndp", 1)]


def _heeding(links: Iterable[str], host: HostView) -> list[Setting]:
    """Return what keeps links that heed router advertisements heeding them while they forward."""
    return [Setting(6, link, "accept_ra", 2) for link in links if host.setting(6, link, "accept_ra") in _HEEDED]


def guest_settings(host: HostView, *, ipv6: bool) -> tuple[tuple[int, str, int], ...]:
    """Return the settings of a routed guest's link: (IP version, key, value).

    A guest's router advertisements never configure the host. `ipv6` says that the guest has IPv6 addresses.
    """
    settings = [(4, "forwarding", 1), (4, "rp_filter", 1), (4, "proxy_arp", 1)]
    if has_ipv6(host):
        settings.append((6, "accept_ra", 0))
        if ipv6:
            settings += [(6, "disable_ipv6", 0), (6, "forwarding", 1)]
            settings += [(6, "force_forwarding", 1)] if forces(host) else []
    return tuple(settings)
