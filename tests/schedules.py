"""Schedules: the lives of a few vifs, cut into the steps that libxl and netback take, interleaved in any order.

Pure. tests/unit plays them in a simulated world by the thousand, tests/kernel replays a sample on the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from hypothesis import strategies as st

from xennetd.model.vif import VifId


class Op(StrEnum):
    """One step of a vif's life. Each is what one program does at one moment; others' steps come in between."""

    DIRECTORY = auto()
    """libxl writes the backend and frontend directories: state 1, online 1."""
    INIT_WAIT = auto()
    """netback writes state 2."""
    LINK = auto()
    """netback makes the link."""
    CONNECT = auto()
    """netback goes to state 4, if hotplug-status is `connected` by then."""
    RECONNECT = auto()
    """The frontend leaves: 5, 6."""
    RECONNECT_FORGETTING = auto()
    """The same with a kernel that deletes hotplug-status on the way."""
    BACK = auto()
    """The frontend is back: state 2."""
    OFFLINE = auto()
    """libxl writes online 0 and state 5."""
    CLOSED = auto()
    """netback writes state 6 and deletes hotplug-status."""
    LINK_GONE = auto()
    """netback unregisters the link."""
    DIRECTORY_GONE = auto()
    """libxl deletes the directories."""
    MEDDLE = auto()
    """Another program takes the link down and out of its bridge."""


@dataclass(frozen=True, slots=True)
class Life:
    """One vif from its directory to wherever its steps end. `order` tells it from an earlier vif of the same name."""

    vif: VifId
    vifname: str | None
    ops: tuple[Op, ...]
    order: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of the life with this number, and how much the daemon gets done before the next one."""

    life: int
    op: Op
    pause: int


_BIRTHS = ((Op.INIT_WAIT, Op.LINK), (Op.LINK, Op.INIT_WAIT))
_MIDDLES: tuple[tuple[Op, ...], ...] = (
    (),
    (Op.CONNECT,),
    (Op.CONNECT, Op.MEDDLE),
    (Op.CONNECT, Op.RECONNECT, Op.BACK, Op.CONNECT),
    (Op.CONNECT, Op.RECONNECT_FORGETTING, Op.BACK, Op.CONNECT),
)
_ENDS = ((Op.LINK_GONE, Op.DIRECTORY_GONE), (Op.DIRECTORY_GONE, Op.LINK_GONE))

_ids = st.sampled_from([VifId(1, 0), VifId(2, 0), VifId(2, 1), VifId(3, 0)])
_names = st.sampled_from([None, None, "web0"])


@st.composite
def lives(draw: st.DrawFn) -> tuple[Life, ...]:
    """A few vifs. Those with one VifId follow each other; two with one `vifname` may overlap, as in a reboot."""
    found: list[Life] = []
    for order in range(draw(st.integers(1, 4))):
        birth = draw(st.sampled_from(_BIRTHS))
        middle = draw(st.sampled_from(_MIDDLES))
        whole = (Op.DIRECTORY, *birth, *middle, Op.OFFLINE, Op.CLOSED, *draw(st.sampled_from(_ENDS)))
        length = draw(st.sampled_from([len(whole), len(whole), len(whole) - 4, len(whole) - 2, 3, 2]))
        found.append(Life(draw(_ids), draw(_names), whole[:length], order))
    return tuple(found)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[tuple[Life, ...], tuple[Moment, ...]]:
    """Lives, and the moments at which their steps happen."""
    everyone = draw(lives())
    left = [list(life.ops) for life in everyone]
    moments: list[Moment] = []
    while choices := _possible(everyone, left):
        number = draw(st.sampled_from(choices))
        moments.append(Moment(number, left[number].pop(0), draw(st.sampled_from([0, 0, 1, 3, 20]))))
    return everyone, tuple(moments)


def _possible(everyone: Sequence[Life], left: Sequence[Sequence[Op]]) -> list[int]:
    """Return which lives may go on: a VifId is used again only when its earlier life has ended and left nothing."""
    return [
        number
        for number, life in enumerate(everyone)
        if left[number]
        and not any(
            other.vif == life.vif and other.order < life.order and (left[other.order] or Op.LINK_GONE not in other.ops)
            for other in everyone
        )
    ]
