"""What policy has asked of the host and of other guests for one decision, and what the answers were.

An answer is given once and stays the same for the whole decision. The questions and answers are a value that can be
logged; with them alone the decision can be made again (`Facts.of`), and it can be kept as long as they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from xennetd.model.attachment import Name
from xennetd.model.errors import XennetdError
from xennetd.model.ip import IPAddress, IPNetwork
from xennetd.model.link import HostView, Link
from xennetd.model.vif import VifId
from xennetd.policy.addresses import Claim, OtherGuests

Answers = Mapping[tuple[Any, ...], Any]
"""By question: the name of a method, and its arguments."""


class Unanswered(LookupError):
    """A question that had not been asked when these facts were gathered."""


class Facts:
    """Implements `HostView` and `Others` over those that know, and keeps what they say."""

    def __init__(self, host: HostView, others: OtherGuests) -> None:
        self._host = host
        self._others = others
        self.has_ipv6 = host.has_ipv6
        self.forces_ipv6 = host.forces_ipv6
        self.answers: dict[tuple[Any, ...], Any] = {}

    @classmethod
    def of(cls, answers: Answers, *, has_ipv6: bool, forces_ipv6: bool) -> Facts:
        """Return facts that were gathered before. Asking for others raises Unanswered."""
        nobody: Any = _Nobody(has_ipv6, forces_ipv6)
        facts = cls(nobody, nobody)
        facts.answers.update(answers)
        return facts

    def _ask(self, name: str, ask: Callable[..., Any], *about: Any) -> Any:
        question = (name, *about)
        try:
            return self.answers[question]
        except KeyError:
            answer = self.answers[question] = ask(*about)
            return answer

    def link(self, name: str) -> Link | None:
        found: Link | None = self._ask("link", self._host.link, name)
        return found

    def bridges(self) -> tuple[Link, ...]:
        found: tuple[Link, ...] = self._ask("bridges", self._host.bridges)
        return found

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        found: tuple[Link, ...] = self._ask("uplinks", self._host.uplinks, bridge)
        return found

    def default_uplink(self, version: int) -> Link | None:
        found: Link | None = self._ask("default_uplink", self._host.default_uplink, version)
        return found

    def owner(self, destination: IPNetwork) -> Link | None:
        found: Link | None = self._ask("owner", self._host.owner, destination)
        return found

    def router(self, destination: IPNetwork) -> IPAddress | None:
        found: IPAddress | None = self._ask("router", self._host.router, destination)
        return found

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        found: Link | None = self._ask("neighbouring", self._host.neighbouring, subnet)
        return found

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        found: Link | None = self._ask("routed", self._host.routed, destination, metric)
        return found

    def claims(self, destination: IPNetwork, asking: VifId) -> Collection[Claim]:
        found: Collection[Claim] = self._ask("claims", self._others.claims, destination, asking)
        return found

    def since(self, asking: VifId) -> int:
        found: int = self._ask("since", self._others.since, asking)
        return found

    def has(self, asking: VifId, what: IPNetwork | Name) -> bool:
        found: bool = self._ask("has", self._others.has, asking, what)
        return found

    def namesakes(self, name: Name, asking: VifId) -> Collection[Claim]:
        found: Collection[Claim] = self._ask("namesakes", self._others.namesakes, name, asking)
        return found

    def allocated(self, network: str, key: tuple[str, int]) -> Collection[IPAddress]:
        found: Collection[IPAddress] = self._ask("allocated", self._others.allocated, network, key)
        return found

    def taken(self, network: str) -> Collection[IPAddress]:
        found: Collection[IPAddress] = self._ask("taken", self._others.taken, network)
        return found

    def lease(self, instance: str, mac: str) -> Collection[IPAddress]:
        found: Collection[IPAddress] = self._ask("lease", self._others.lease, instance, mac)
        return found

    def leased(self, instance: str) -> Collection[IPAddress]:
        found: Collection[IPAddress] = self._ask("leased", self._others.leased, instance)
        return found

    def problem(self, network: str) -> XennetdError | None:
        found: XennetdError | None = self._ask("problem", self._others.problem, network)
        return found


class _Nobody:
    """Knows nothing but what the kernel has."""

    def __init__(self, has_ipv6: bool, forces_ipv6: bool) -> None:
        self.has_ipv6 = has_ipv6
        self.forces_ipv6 = forces_ipv6

    def __getattr__(self, name: str) -> Any:
        def ask(*about: object) -> Any:
            raise Unanswered(f"{name}{about}")

        return ask
