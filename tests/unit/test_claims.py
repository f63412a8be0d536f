"""Who has an address that several want: always just one of them, and nobody takes it from who has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.hosts import nobody
from xennetd.model.attachment import Attachment, Mode
from xennetd.model.errors import HostError
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.policy.addresses import destination, uncontested, yields

WANTED = ("198.51.100.7", "198.51.100.0/29", "198.51.100.9")
IDS = (VifId(3, 0), VifId(3, 1), VifId(4, 0), VifId(9, 0))


@dataclass
class Guest:
    """One guest, told that it is connected as soon as it has its address."""

    vif: Vif
    connected: bool = False
    denied: bool = False
    has: bool = False


class Guests:
    def __init__(self, wants: Sequence[str], uuids: Sequence[str]) -> None:
        self.claims = nobody()
        self.guests = [
            Guest(Vif(vif, XenbusState.INIT_WAIT, True, "", ips=(IPv4Interface(wanted),), uuid=uuid))
            for vif, wanted, uuid in zip(IDS, wants, uuids, strict=True)
        ]

    def look(self, number: int) -> None:
        """As the reconciler looks at one."""
        guest = self.guests[number]
        vif = guest.vif
        self.claims.meet(vif.id, connected=guest.connected, in_service=guest.has)
        wanted = (destination(vif.ips[0]),)
        try:
            if guest.denied:
                raise HostError("denied")
            kept, _ = uncontested(vif, wanted, self.claims)
        except HostError:
            self.claims.drop(vif.id)
            guest.has = False
            return
        attachment = Attachment(vif.id, Mode.ROUTE, ips=wanted)
        self.claims.set(vif, str(vif.id), attachment, connected=guest.connected)
        guest.has = guest.connected = bool(kept)

    def restart(self) -> None:
        self.claims = nobody()

    def rest(self) -> None:
        """Look at all of them until nothing changes; that it comes to that is part of what is tested."""
        for _ in range(5):
            before = [guest.has for guest in self.guests]
            for number in sorted(range(len(self.guests)), key=lambda number: not self.guests[number].has):
                self.look(number)
        assert before == [guest.has for guest in self.guests]


def overlap(one: Guest, other: Guest) -> bool:
    return destination(one.vif.ips[0]).overlaps(destination(other.vif.ips[0]))


_wants = st.lists(st.sampled_from(WANTED), min_size=4, max_size=4)
_uuids = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=4, max_size=4)
_moves = st.lists(st.tuples(st.sampled_from(["look", "deny", "allow", "restart"]), st.integers(0, 3)), max_size=20)


Moves = Sequence[tuple[str, int]]


def play(guests: Guests, moves: Moves) -> None:
    for move, number in moves:
        match move:
            case "look":
                guests.look(number)
            case "restart":
                guests.restart()
            case _:
                guests.guests[number].denied = move == "deny"
                guests.look(number)


@given(_wants, _uuids, _moves)
def test_one_has_what_several_want(wants: Sequence[str], uuids: Sequence[str], moves: Moves) -> None:
    guests = Guests(wants, uuids)
    play(guests, moves)
    guests.rest()
    for guest in guests.guests:
        rivals = [other for other in guests.guests if other is not guest and overlap(guest, other)]
        assert not (guest.has and any(other.has for other in rivals))
        assert guest.has or guest.denied or any(other.has for other in rivals), "nobody has it"


@given(_wants, _moves)
def test_nobody_takes_an_address_from_another_domain(wants: Sequence[str], moves: Moves) -> None:
    guests = Guests(wants, "abcd")
    play(guests, moves)
    guests.rest()
    having = [guest for guest in guests.guests if guest.has]
    for guest in guests.guests:
        guest.denied = False
    guests.rest()
    assert all(guest.has for guest in having)
    guests.restart()
    guests.rest()
    assert all(guest.has for guest in having)


def test_of_two_that_are_both_told_that_they_are_connected_one_yields() -> None:
    claims = nobody()
    wanted = destination(IPv4Interface(WANTED[0]))
    vifs = [
        Vif(VifId(domid, 0), XenbusState.INIT_WAIT, True, "", ips=(IPv4Interface(WANTED[0]),), uuid=str(domid))
        for domid in (1, 2)
    ]
    for connected in (False, True):
        for vif in vifs:
            claims.meet(vif.id, connected=connected, in_service=True)
            claims.set(vif, "", Attachment(vif.id, Mode.ROUTE, ips=(wanted,)), connected=connected)
    yielding = [yields(vif, wanted, claim, claims) for vif in vifs for claim in claims.claims(wanted, vif.id)]
    assert yielding == [False, True]
