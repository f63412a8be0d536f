"""The questions that policy has asked about the host and the other guests for one decision, and the answers.

A question is asked once: its answer stays the same for the whole decision. The questions and answers are a value that
can be logged. They are sufficient to make the decision again (`Facts.of`). The decision remains valid as long as the
answers are the same.
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

RecordedAnswers = Mapping[tuple[Any, ...], Any]
"""The answers by question. A question is the name of a method, followed by its arguments."""


class Unanswered(LookupError):
    """A decision that is made again asks a question that had not been asked when the facts were gathered."""


class Facts:
    """Implements `HostView` and `OtherGuests`: passes every new question on to these, and records the answer.

    The two protocols document the methods.
    """

    def __init__(self, host: HostView, others: OtherGuests) -> None:
        self._host = host
        self._others = others
        self.has_ipv6 = host.has_ipv6
        self.forces_ipv6 = host.forces_ipv6
        self.answers: dict[tuple[Any, ...], Any] = {}
        self._asked: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @classmethod
    def of(cls, answers: RecordedAnswers, *, has_ipv6: bool, forces_ipv6: bool) -> Facts:
        """Return facts with recorded answers. Any other question raises Unanswered."""
        source: Any = _NoSource(has_ipv6, forces_ipv6)
        facts = cls(source, source)
        facts.answers.update(answers)
        return facts

    def _ask(self, name: str, ask: Callable[..., Any], *about: Any) -> Any:
        question = (name, *about)
        try:
            return self.answers[question]
        except KeyError:
            answer = self.answers[question] = ask(*about)
            self._asked[question] = ask
            return answer

    def hold(self) -> bool:
        """Return whether the host and the other guests would answer all questions as before."""
        answers = self.answers
        return all(ask(*question[1:]) == answers[question] for question, ask in self._asked.items())

    def link(self, name: str) -> Link | None:
        """Return the link with this name (`HostView.link`)."""
        answer: Link | None = self._ask("link", self._host.link, name)
        return answer

    def bridges(self) -> tuple[Link, ...]:
        """Return all bridges, sorted by name (`HostView.bridges`)."""
        answer: tuple[Link, ...] = self._ask("bridges", self._host.bridges)
        return answer

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the ports of a bridge that are not guests' links (`HostView.uplinks`)."""
        answer: tuple[Link, ...] = self._ask("uplinks", self._host.uplinks, bridge)
        return answer

    def default_uplink(self, version: int) -> Link | None:
        """Return the link of the default route of an IP version (`HostView.default_uplink`)."""
        answer: Link | None = self._ask("default_uplink", self._host.default_uplink, version)
        return answer

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link on which the host has an address within the destination (`HostView.owner`)."""
        answer: Link | None = self._ask("owner", self._host.owner, destination)
        return answer

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return the host's own router, if it lies within the destination (`HostView.router`)."""
        answer: IPAddress | None = self._ask("router", self._host.router, destination)
        return answer

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a foreign link whose subnet overlaps this one (`HostView.neighbouring`)."""
        answer: Link | None = self._ask("neighbouring", self._host.neighbouring, subnet)
        return answer

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link that xennetd's own route leads through (`HostView.routed`)."""
        answer: Link | None = self._ask("routed", self._host.routed, destination, metric)
        return answer

    def claims(self, destination: IPNetwork, asking: VifId) -> Collection[Claim]:
        """Return the claims of other guests on a destination (`OtherGuests.claims`)."""
        answer: Collection[Claim] = self._ask("claims", self._others.claims, destination, asking)
        return answer

    def since(self, asking: VifId) -> int:
        """Return the rank of the asking vif's domain by its arrival (`OtherGuests.since`)."""
        answer: int = self._ask("since", self._others.since, asking)
        return answer

    def has(self, asking: VifId, what: IPNetwork | Name) -> bool:
        """Return whether the asking vif has the address or name already (`OtherGuests.has`)."""
        answer: bool = self._ask("has", self._others.has, asking, what)
        return answer

    def namesakes(self, name: Name, asking: VifId) -> Collection[Claim]:
        """Return the other live vifs with this name (`OtherGuests.namesakes`)."""
        answer: Collection[Claim] = self._ask("namesakes", self._others.namesakes, name, asking)
        return answer

    def allocated(self, network: str, key: tuple[str, int]) -> Collection[IPAddress]:
        """Return the addresses in a network of the vif with this (uuid, devid) (`OtherGuests.allocated`)."""
        answer: Collection[IPAddress] = self._ask("allocated", self._others.allocated, network, key)
        return answer

    def taken(self, network: str) -> Collection[IPAddress]:
        """Return the addresses of all live vifs in a network (`OtherGuests.taken`)."""
        answer: Collection[IPAddress] = self._ask("taken", self._others.taken, network)
        return answer

    def lease(self, instance: str, mac: str) -> Collection[IPAddress]:
        """Return the addresses that dnsmasq has assigned to a MAC (`OtherGuests.lease`)."""
        answer: Collection[IPAddress] = self._ask("lease", self._others.lease, instance, mac)
        return answer

    def leased(self, instance: str) -> Collection[IPAddress]:
        """Return all addresses that a dnsmasq has leased (`OtherGuests.leased`)."""
        answer: Collection[IPAddress] = self._ask("leased", self._others.leased, instance)
        return answer

    def problem(self, network: str) -> XennetdError | None:
        """Return why the host can't provide a network now (`OtherGuests.problem`)."""
        answer: XennetdError | None = self._ask("problem", self._others.problem, network)
        return answer


class _NoSource:
    """Stands in for `HostView` and `OtherGuests` where only recorded answers exist."""

    def __init__(self, has_ipv6: bool, forces_ipv6: bool) -> None:
        self.has_ipv6 = has_ipv6
        self.forces_ipv6 = forces_ipv6

    def __getattr__(self, name: str) -> Any:
        def ask(*about: object) -> Any:
            raise Unanswered(f"{name}{about}")

        return ask
