"""Plays examples and their changes, and writes down what was done: the golden texts."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

from tests.golden import rules
from tests.golden.change import Change, Part
from tests.golden.changes import CHANGES
from tests.golden.examples import EXAMPLES, Example, policy_of
from tests.golden.host import ROUTERS, UPLINKS, WAYS_OUT
from tests.golden.serving import Serving, serving
from tests.golden.text import done_lines, state_lines
from xennetd.model.configuration import Policy

DIRECTORY = Path(__file__).parent

_RENEW = "# `python -m tests.golden` writes this file. It is to be reviewed as a change of xennetd is."


@cache
def play_start(example: Example) -> tuple[str, tuple[str, ...]]:
    """Return the golden text of an example, and what is wrong with what was done."""
    lines, wrong = asyncio.run(_start(example, forces_ipv6=False))
    newer, wrong_too = asyncio.run(_start(example, forces_ipv6=True))
    head = [
        f"# What xennetd does for conf/examples/{example.name}.toml on a host that has nothing of it yet.",
        _RENEW,
        "",
        *_host_lines(example),
        "",
    ]
    differs = [line for line in difflib.unified_diff(lines, newer, n=0, lineterm="") if line[:2] in ("- ", "+ ")]
    tail = ["", "From Linux 6.17 on, where IPv6 is forwarded link by link:", *differs] if differs else []
    return _text([*head, *(line[2:] for line in lines), *tail]), (*wrong, *wrong_too)


@cache
def play_changes(example: Example) -> tuple[str, Mapping[str, tuple[str, ...]]]:
    """Return the golden text of all changes of an example, and by their titles what is wrong with what was done."""
    lines = [
        f"# What a reload does after each change of conf/examples/{example.name}.toml.",
        _RENEW,
        f"# The host and the guests are as {example.name}.txt leaves them.",
    ]
    found: dict[str, tuple[str, ...]] = {}
    for change in CHANGES[example]:
        done, wrong = asyncio.run(_reload(example, change))
        lines += ["", f"== {change.title}", *(done or ["   nothing is done"])]
        found[change.title] = wrong
    return _text(lines), found


GOLDENS: Mapping[Path, Callable[[], str]] = {
    **{DIRECTORY / f"{each.name}.txt": partial(lambda one: play_start(one)[0], each) for each in EXAMPLES},
    **{DIRECTORY / f"{each.name}.changes.txt": partial(lambda one: play_changes(one)[0], each) for each in EXAMPLES},
}
"""What each golden file must hold."""


async def _start(example: Example, *, forces_ipv6: bool) -> tuple[list[str], tuple[str, ...]]:
    host = example.host(forces_ipv6=forces_ipv6)
    async with serving(host, policy_of(example.text)) as daemon:
        await _populate(daemon, example)
        lines = [f"  {line}" for line in (*done_lines(daemon, daemon.done), *state_lines(daemon))]
        return lines, (
            *host.wrong,
            *rules.finished(await daemon.left()),
            *rules.as_the_example_says(daemon, example.vifs()),
        )


async def _reload(example: Example, change: Change) -> tuple[list[str], tuple[str, ...]]:
    host, policy = example.host(), policy_of(change.text)
    async with serving(host, policy_of(example.text)) as daemon:
        await _populate(daemon, example)
        already, known, links = len(daemon.done), set(state_lines(daemon)), tuple(host.links.links)
        addresses = rules.addresses_of(daemon)
        refused = [note.sentence for note in daemon.check(policy) if note.error]
        if refused:
            return [f"   refused: {sentence}" for sentence in refused], ()
        await daemon.reload(policy)
        done = daemon.done[already:]
        addresses |= rules.addresses_of(daemon)
        lines = [f"   {line}" for line in done_lines(daemon, done)]
        lines += [f"   {line}" for line in state_lines(daemon) if line not in known]
        vifs = example.vifs()
        concerned = {vif.id: (guest, change.concerned.get(guest, Part.NOTHING)) for guest, vif in vifs.items()}
        wrong = [*host.wrong, *rules.untouched(daemon, done, addresses, concerned), *rules.in_place(done)]
        wrong += rules.not_taken_down(daemon, done, links)
        if daemon.observes:
            return lines, (*wrong, *(f"done in observe mode: {line}" for line in done_lines(daemon, done)))
        wrong += [*rules.finished(await daemon.left()), *rules.where_policy_has_them(daemon)]
    return lines, (*wrong, *await _beside_a_start(daemon, example, policy))


async def _beside_a_start(daemon: Serving, example: Example, policy: Policy) -> list[str]:
    async with serving(example.host(), policy) as started:
        await _populate(started, example)
        return [*rules.no_worse(daemon, daemon.errors, started), *rules.same_host(daemon, started)]


async def _populate(daemon: Serving, example: Example) -> None:
    for vif in example.vifs().values():
        await daemon.come(vif)


def _host_lines(example: Example) -> Iterator[str]:
    yield "The host:"
    for name, addresses in UPLINKS.items():
        ways = [str(router) for version, router in zip((4, 6), ROUTERS, strict=True) if WAYS_OUT[version] == name]
        yield f"    {name}: {', '.join(addresses)}" + (f"; default routes via {' and '.join(ways)}" if ways else "")
    for name, mtu in example.bridges:
        yield f"    {name}: a bridge with MTU {mtu} and a port to the outside"
    yield "The guests, by their vif= lines:"
    for guest, vif in example.vifs().items():
        yield f"    {vif.id} of {guest.vm}: mac={vif.mac}{',' if guest.line else ''}{guest.line}"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
