"""An address, a route, a rule or a neighbour entry of the host, whoever made it, with all that the kernel keeps of it.

An entry holds the bytes of its rtnetlink message without what names a link, so that it can be put on another link or
be made again as it was. `kernel.ip_entries` reads and writes entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from xennetd.model.ip import IPInterface
from xennetd.model.objects import NO_KEYS, Key, Keys, link_key
from xennetd.model.value import replace

EntryKind = Literal["ip address", "ip route", "ip rule", "ip neighbour"]

_AF_INET = b"\x02"

FOREVER = 0xFFFFFFFF
"""The lifetime of an address that does not end (INFINITY_LIFE_TIME)."""


@dataclass(frozen=True, slots=True)
class IpEntry:
    """One entry. `links` are the names of its links, in the order in which the message names them.

    `identity` is what no second entry on the same links has, in the words of ip(8); with `of_link` the link is a part
    of it, else another link can take the entry over in place. `fixed` is the message's fixed part and `attributes` its
    attributes, both without links and without what changes by itself. `interface` is an address's. `label` is what its
    label has after the link's name. `leased` says that it was given for a time: by DHCP, or by a router. `lifetime` is
    (preferred, valid) in seconds. `via` says that a route leads through a router. `after` holds the keys of what must
    be in force before. `obstacle` says why the entry can't be put on another link.
    """

    kind: EntryKind
    identity: str
    links: tuple[str, ...]
    fixed: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()
    words: str = field(default="", compare=False)
    of_link: bool = True
    interface: IPInterface | None = None
    label: str = ""
    leased: bool = field(default=False, compare=False)
    lifetime: tuple[int, int] = field(default=(FOREVER, FOREVER), compare=False)
    via: bool = False
    after: Keys = field(default=NO_KEYS, compare=False)
    obstacle: str = field(default="", compare=False)

    @property
    def version(self) -> int:
        """The IP version: the first byte of the fixed part is the address family."""
        return 4 if self.fixed[:1] == _AF_INET else 6

    @property
    def key(self) -> Key:
        """The entry's identity, with its link if the link is a part of it."""
        return Key(self.kind, f"{self.identity} on {' '.join(self.links)}" if self.of_link else self.identity)

    @property
    def requires(self) -> Keys:
        """The links, and what else must be there first (`after`)."""
        return self.after | frozenset(map(link_key, self.links))

    def describe(self) -> str:
        """Return the ip(8) command that makes the entry."""
        where = "" if self.kind == "ip rule" else f" dev {' dev '.join(self.links)}" if self.links else ""
        return f"{self.words}{where}"

    def describe_change(self, was: object) -> str:
        """Return the command that puts the entry where it is wanted, in place."""
        return self.describe()

    def on(self, names: dict[str, str]) -> IpEntry:
        """Return the entry on other links: `names` has the new name of a link by the present one."""
        links = tuple(names.get(link, link) for link in self.links)
        return self if links == self.links else replace(self, links=links)
