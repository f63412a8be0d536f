"""What a check of the policy has to know of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xennetd.model.ip import IPInterface


@dataclass(frozen=True, slots=True)
class HostNotes:
    """What was found on the host; None: not known. `hooks` are the executable `vif-post.d/*.hook` files.

    `addresses` are the host's own by link, but those of links that we made. `dnsmasq` and `nftables` say whether the
    program and the Python module of these names are installed.
    """

    hooks: tuple[str, ...] = ()
    xl_devd: bool = False
    bridges: frozenset[str] | None = None
    links: frozenset[str] | None = None
    addresses: Mapping[str, tuple[IPInterface, ...]] | None = None
    dnsmasq: bool = True
    nftables: bool = True
