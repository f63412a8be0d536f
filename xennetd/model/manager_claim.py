"""What other network managers of the host say that they configure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Manager = Literal["ifupdown", "systemd-networkd", "NetworkManager", "netplan"]

Addressing = Literal["", "automatic", "static", "DHCP"]
"""Where a manager gets the addresses of a link. `automatic` ones are IPv6's own: link-local, or by a router's prefix.
The empty text says that the manager gives the link no addresses."""


@dataclass(frozen=True, slots=True)
class ManagerClaim:
    """One manager configures the link with this name.

    `files` are the paths of the files that say so, the most telling one first. With `makes` the manager also makes the
    link. `master` is the name of the link that the manager makes this one a port of. It is empty where the manager
    takes the link out of any other, and None where it leaves that alone.
    """

    manager: Manager
    link: str
    files: tuple[str, ...]
    makes: bool = False
    addressing: Addressing = ""
    master: str | None = None

    @property
    def acts(self) -> bool:
        """Whether the manager does more with the link than to bring it up."""
        return bool(self.makes or self.addressing or self.master is not None)

    @property
    def source(self) -> str:
        """The manager and its files, in words."""
        return f"{self.manager}: {', '.join(self.files)}"


ManagerClaims = tuple[ManagerClaim, ...]


def stronger(one: Addressing, other: Addressing) -> Addressing:
    """Return that of two which says more of a link that has both."""
    order: tuple[Addressing, ...] = ("DHCP", "static", "automatic")
    return next((each for each in order if each in {one, other}), "")
