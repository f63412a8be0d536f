"""The adapter for `Ruleset` and `SetElement`: our nftables table, kept as a view and changed in transactions.

Rule 1: what one call makes or takes away is one transaction: all of it or nothing.
Rule 2: the table is there while it has a chain or an element, and goes with the last of them.
Rule 3: somebody else may delete it (`systemctl restart nftables` does); the kernel's news of nftables is the hint to
list it anew. News of our own changes is no hint.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Sequence

import structlog

from xennetd.kernel import netlink
from xennetd.model.errors import HostError
from xennetd.model.marks import TABLE
from xennetd.model.objects import Chain, Ruleset, SetElement
from xennetd.nft.library import (
    LASTING,
    SAVED_SYSCTLS,
    Listing,
    Nft,
    Parts,
    as_listed,
    changes,
    declarations,
    element_text,
    first_line,
    plain,
)

_log = structlog.get_logger()

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN: the end of a transaction
_GETTABLE = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_NFTA_TABLE_NAME = 1
_NFPROTO_INET = 1
_SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_BUFFER = 4 << 20
_DATAGRAM = 1 << 16
_OUR_NAME = TABLE.encode() + b"\0"


class NftTable:
    """`changed` is called when somebody else has changed our table."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._nft = Nft()
        self._now = Listing()
        self._ruleset: Ruleset | None = None
        self._news: socket.socket | None = None

    def start(self) -> None:
        """Listen, and list what there is. Without nftables there is nothing; to need it will be the error.

        Where there is no table of ours libnftables is not asked, so that it need not be loaded: it takes 8 MiB.
        """
        try:
            self._news = _listen()
            if _has_table():
                self._now = self._nft.read()
        except (OSError, HostError) as error:
            _log.debug("no nftables here", why=str(error))
        if self._news is not None:
            asyncio.get_running_loop().add_reader(self._news.fileno(), self.poll)

    def close(self) -> None:
        """Stop listening. The table stays as it is."""
        if self._news is not None:
            asyncio.get_running_loop().remove_reader(self._news.fileno())
            self._news.close()
            self._news = None

    def poll(self) -> None:
        """Take in the news that is waiting."""
        if self._transactions() and self._relist():
            _log.warning("somebody has changed the nftables table of xennetd", table=f"inet {TABLE}")
            self._changed()

    def present(self, wanted: Ruleset | SetElement) -> Ruleset | SetElement | None:
        """Return the chains there are, or the element with the value that it has."""
        if isinstance(wanted, Ruleset):
            if self._now.exists and self._now.chains == {chain.name: as_listed(chain) for chain in wanted.chains}:
                self._ruleset = wanted  # A listing has only the hashes of their words.
                return wanted
            return self._current() if self._now.chains else None
        value = self._now.sets[wanted.set].get(plain(wanted.parts))
        if value is None:
            return None
        return wanted if value == plain(wanted.value) else SetElement(wanted.set, wanted.parts, value)

    def apply(self, wanted: Sequence[Ruleset | SetElement]) -> None:
        """Make the chains these and no others, and the elements be there. Raises HostError when nft refuses."""
        self._change(lambda: self._additions(wanted), ", ".join(each.describe() for each in wanted))
        self._ruleset = next((each for each in wanted if isinstance(each, Ruleset)), self._ruleset)

    def remove(self, objects: Sequence[Ruleset | SetElement]) -> None:
        """Take away the chains, if they are these, and the elements that have these values."""
        self._change(lambda: self._removals(objects), "to take away " + ", ".join(each.describe() for each in objects))

    def list_owned(self) -> Collection[Ruleset | SetElement]:
        """Return everything in our table but what is LASTING; rules of unknown wording are named by their hashes."""
        found: list[Ruleset | SetElement] = [
            SetElement(name, key, value)
            for name, elements in self._now.sets.items()
            if name not in LASTING
            for key, value in elements.items()
        ]
        if self._now.chains:
            found.append(self._current())
        return found

    def saved(self) -> dict[tuple[str, str], int]:
        """Return what sysctls were before us: by the index of the link and the number of the sysctl."""
        return {(key[0], key[1]): int(value[0]) for key, value in self._now.sets[SAVED_SYSCTLS].items()}

    def save(self, values: Iterable[tuple[tuple[str, str], int, str | None]]) -> None:
        """Save what sysctls were before us, and in which set of GUEST_ONLY_LINKS a link is that did not forward.

        Raises HostError when that can't be; nothing is saved then.
        """
        elements: list[SetElement] = []
        for key, value, guest_only in values:
            elements += [SetElement(SAVED_SYSCTLS, key, (str(value),)), *_guest_only(key, guest_only)]
        self.apply(elements)

    def forget(self, key: tuple[str, str], guest_only: str | None) -> None:
        """Forget what a sysctl was before us."""
        value = self._now.sets[SAVED_SYSCTLS].get(key, ("0",))
        self.remove([SetElement(SAVED_SYSCTLS, key, value), *_guest_only(key, guest_only)])

    def _current(self) -> Ruleset:
        ruleset = self._ruleset
        if ruleset is not None and self._now.chains == {chain.name: as_listed(chain) for chain in ruleset.chains}:
            return ruleset
        chains = self._now.chains.items()
        return Ruleset(tuple(Chain(name, f"{chain.kind} {chain.hook}", chain.comments) for name, chain in chains))

    def _additions(self, wanted: Iterable[Ruleset | SetElement]) -> tuple[list[str], Listing]:
        """Return the commands that make these, and what is listed then."""
        then = _copy(self._now)
        commands: list[str] = []
        added: dict[str, list[str]] = {}
        for each in wanted:
            if self.present(each) == each:
                continue
            if isinstance(each, Ruleset):
                commands += changes(each, then)
                then.chains = {chain.name: as_listed(chain) for chain in each.chains}
                continue
            key, value = plain(each.parts), plain(each.value)
            if key in then.sets[each.set]:
                commands.append(_command("delete", each.set, [element_text(key)]))
            added.setdefault(each.set, []).append(element_text(key, value))
            then.sets[each.set][key] = value
        commands += [_command("add", name, elements) for name, elements in added.items()]
        if not commands:
            return [], then
        then.exists = True
        return [*declarations(), *commands], then

    def _removals(self, objects: Iterable[Ruleset | SetElement]) -> tuple[list[str], Listing]:
        """Return the commands that take these away as far as they are there, and what is listed then."""
        then = _copy(self._now)
        commands: list[str] = []
        deleted: dict[str, list[str]] = {}
        for each in objects:
            if isinstance(each, Ruleset):
                if then.chains and each == self._current():
                    commands += changes(None, then)
                    then.chains = {}
            elif then.sets[each.set].get(plain(each.parts)) == plain(each.value):
                deleted.setdefault(each.set, []).append(element_text(plain(each.parts)))
                del then.sets[each.set][plain(each.parts)]
        commands += [_command("delete", name, elements) for name, elements in deleted.items()]
        if commands and not then.chains and not any(then.sets.values()):
            return [f"delete table inet {TABLE}"], Listing()
        return commands, then

    def _change(self, plan: Callable[[], tuple[list[str], Listing]], what: str) -> None:
        """Commit what `plan` makes of the view; once more after a refusal, as the view may have been behind."""
        self.poll()
        for last in (False, True):
            commands, then = plan()
            if not commands:
                return
            refusal = self._nft.commit("\n".join(commands))
            if not refusal:
                self._now = then
                if self._transactions() > 1:
                    self._relist()
                return
            self._relist()
            if last:
                raise HostError(f"nftables refuses {what}: {first_line(refusal)}", detail=f"{what}: {refusal.strip()}")

    def _relist(self) -> bool:
        """List the table anew. Returns whether it is not as it was thought to be.

        Nobody else knows what sysctls were before us, so that is saved again at once.
        """
        was, self._now = self._now, self._nft.read()
        lost = {
            name: {key: value for key, value in was.sets[name].items() if key not in self._now.sets[name]}
            for name in sorted(LASTING)
        }
        commands = [
            _command("add", name, [element_text(key, value) for key, value in elements.items()])
            for name, elements in lost.items()
            if elements
        ]
        if commands:
            refusal = self._nft.commit("\n".join([*declarations(), *commands]))
            if refusal:
                _log.error("what sysctls were before xennetd is lost", why=first_line(refusal))
            else:
                self._now.exists = True
                for name, elements in lost.items():
                    self._now.sets[name].update(elements)
        return was != self._now

    def _transactions(self) -> int:
        """Return how many transactions about our table there is news of: our own too. Lost news may be any number."""
        count = 0
        touches = False
        while self._news is not None:
            try:
                data = self._news.recv(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                count += 2
                continue
            for message in netlink.headers(data):
                if message.type == _NEWGEN:
                    count += touches
                    touches = False
                elif not touches:
                    touches = _OUR_NAME in data[message.start : message.end]
        return count


def _guest_only(key: Parts, guest_only: str | None) -> list[SetElement]:
    return [SetElement(guest_only, key[:1])] if guest_only is not None else []


def _has_table() -> bool:
    """Ask the kernel itself whether our table is there."""
    name = netlink.attribute(_NFTA_TABLE_NAME, _OUR_NAME)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as asking:
        asking.bind((0, 0))
        flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
        asking.send(netlink.request(_GETTABLE, flags, 1, struct.pack("=BBH", _NFPROTO_INET, 0, 0) + name))
        data = asking.recv(_DATAGRAM)
        return not any(message.type == netlink.NLMSG_ERROR for message in netlink.headers(data))


def _listen() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    news = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
    news.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    news.bind((0, 0))
    news.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, struct.pack("=I", _GROUP_NFTABLES))
    return news


def _command(verb: str, name: str, elements: list[str]) -> str:
    return f"{verb} element inet {TABLE} {name} {{ {', '.join(elements)} }}"


def _copy(listing: Listing) -> Listing:
    sets = {name: dict(elements) for name, elements in listing.sets.items()}
    return Listing(listing.exists, dict(listing.chains), sets)
