"""The questions that policy has asked about the host and the other guests for one decision, and the answers.

A question is asked once: its answer stays the same for the whole decision. The questions and answers are a value that
can be logged. They are sufficient to make the decision again (`Facts.of`). The decision remains valid as long as the
answers are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


_OF_THE_HOST = frozenset(name for name in vars(HostView) if not name.startswith("_"))
"""The questions about the host. All others are about the other guests."""


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

    @classmethod
    def of(cls, answers: RecordedAnswers, *, has_ipv6: bool, forces_ipv6: bool) -> Facts:
        """Return facts with recorded answers. Any other question raises Unanswered."""
        source: Any = _NoSource(has_ipv6, forces_ipv6)
        facts = cls(source, source)
        facts.answers.update(answers)
        return facts

    def _ask(self, name: str, *about: Any) -> Any:
        question = (name, *about)
        try:
            return self.answers[question]
        except KeyError:
            answer = self.answers[question] = self._ask_anew(question)
            return answer

    def _ask_anew(self, question: tuple[Any, ...]) -> Any:
        name, *about = question
        return getattr(self._host if name in _OF_THE_HOST else self._others, name)(*about)

    def hold(self) -> bool:
        """Return whether the host and the other guests would answer all questions as before."""
        return all(self._ask_anew(question) == answer for question, answer in self.answers.items())

    def link(self, name: str) -> Link | None:
        """Return the link with this name (`HostView.link`)."""
        answer: Link | None = self._ask("link", name)
        return answer

    def bridges(self) -> tuple[Link, ...]:
        """Return all bridges, sorted by name (`HostView.bridges`)."""
        answer: tuple[Link, ...] = self._ask("bridges")
        return answer

    def uplinks(self, bridge: int) -> tuple[Link, ...]:
        """Return the ports of a bridge that are not guests' links (`HostView.uplinks`)."""
        answer: tuple[Link, ...] = self._ask("uplinks", bridge)
        return answer

    def bridge_of(self, vif: VifId) -> Link | None:
        """Return the bridge of a vif's link (`HostView.bridge_of`)."""
        answer: Link | None = self._ask("bridge_of", vif)
        return answer

    def default_uplink(self, version: int) -> Link | None:
        """Return the link of the default route of an IP version (`HostView.default_uplink`)."""
        answer: Link | None = self._ask("default_uplink", version)
        return answer

    def owner(self, destination: IPNetwork) -> Link | None:
        """Return a link on which the host has an address within the destination (`HostView.owner`)."""
        answer: Link | None = self._ask("owner", destination)
        return answer

    def router(self, destination: IPNetwork) -> IPAddress | None:
        """Return the host's own router, if it lies within the destination (`HostView.router`)."""
        answer: IPAddress | None = self._ask("router", destination)
        return answer

    def neighbouring(self, subnet: IPNetwork) -> Link | None:
        """Return a foreign link whose subnet overlaps this one (`HostView.neighbouring`)."""
        answer: Link | None = self._ask("neighbouring", subnet)
        return answer

    def routed(self, destination: IPNetwork, metric: int) -> Link | None:
        """Return the link that xennetd's own route leads through (`HostView.routed`)."""
        answer: Link | None = self._ask("routed", destination, metric)
        return answer

    def claims(self, destination: IPNetwork, asking: VifId) -> Collection[Claim]:
        """Return the claims of other guests on a destination (`OtherGuests.claims`)."""
        answer: Collection[Claim] = self._ask("claims", destination, asking)
        return answer

    def since(self, asking: VifId) -> int:
        """Return the rank of the asking vif's domain by its arrival (`OtherGuests.since`)."""
        answer: int = self._ask("since", asking)
        return answer

    def has(self, asking: VifId, what: IPNetwork | Name) -> bool:
        """Return whether the asking vif has the address or name already (`OtherGuests.has`)."""
        answer: bool = self._ask("has", asking, what)
        return answer

    def namesakes(self, name: Name, asking: VifId) -> Collection[Claim]:
        """Return the other live vifs with this name (`OtherGuests.namesakes`)."""
        answer: Collection[Claim] = self._ask("namesakes", name, asking)
        return answer

    def allocated(self, network: str, key: tuple[str, int]) -> Collection[IPAddress]:
        """Return the addresses in a network of the vif with this (uuid, devid) (`OtherGuests.allocated`)."""
        answer: Collection[IPAddress] = self._ask("allocated", network, key)
        return answer

    def taken(self, network: str, block: IPNetwork) -> Collection[IPAddress]:
        """Return the addresses of live vifs in a block of a network (`OtherGuests.taken`)."""
        answer: Collection[IPAddress] = self._ask("taken", network, block)
        return answer

    def lease(self, instance: str, mac: str) -> Collection[IPAddress]:
        """Return the addresses that dnsmasq has assigned to a MAC (`OtherGuests.lease`)."""
        answer: Collection[IPAddress] = self._ask("lease", instance, mac)
        return answer

    def leased(self, instance: str, address: IPAddress) -> bool:
        """Return whether a dnsmasq has leased an address (`OtherGuests.leased`)."""
        answer: bool = self._ask("leased", instance, address)
        return answer

    def problem(self, network: str) -> XennetdError | None:
        """Return why the host can't provide a network now (`OtherGuests.problem`)."""
        answer: XennetdError | None = self._ask("problem", network)
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
