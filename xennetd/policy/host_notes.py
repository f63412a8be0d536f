"""What a check of the policy has to know of the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xennetd.model.ip import IPInterface


@dataclass(frozen=True, slots=True)
class HostNotes:
    """What was found on the host; None: not known. `hooks` are the executable `vif-post.d/*.hook` files.

    `addresses` are the host's own by link, but those of links that we made. `no_dnsmasq` and `no_nftables` say why the
    host does not have these, and what to install; they are empty where it has.
    """

    hooks: tuple[str, ...] = ()
    xl_devd: bool = False
    bridges: frozenset[str] | None = None
    links: frozenset[str] | None = None
    addresses: Mapping[str, tuple[IPInterface, ...]] | None = None
    no_dnsmasq: str = ""
    no_nftables: str = ""
