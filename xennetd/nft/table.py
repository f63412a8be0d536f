"""The adapter for `Ruleset` and `SetElement`: a view of xennetd's nftables table, changed in transactions.

"Our table" is the one named TABLE, of family inet.
Rule 1: one call of `apply` or `remove` is one transaction: all of its changes or none.
Rule 2: the table exists while it has a chain or an element, and is deleted with the last of them.
Rule 3: another program may change the table (`systemctl restart nftables` deletes it). A netlink event about a foreign
transaction is the hint to list the table again. The event of xennetd's own transaction is no hint.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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
    UnreadableTable,
    as_listed,
    changes,
    declarations,
    element_text,
    first_line,
    plain,
)
from xennetd.nft.netfilter import DORMANT, NEWGEN, OUR_NAME, listen, table_flags

_log = structlog.get_logger()

_DATAGRAM = 1 << 16
_MINUTE = 60.0
"""Seconds between two messages about changes by other programs."""


_NO_RULES = Ruleset(())
"""Stands for the rules of a table whose rules have no effect, or can't be read."""


class NftTable:
    """Our table. `changed` is called after another program has changed it, once the view is current."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._nft = Nft()
        self._now = Listing()
        self._ruleset: Ruleset | None = None
        self._events: socket.socket | None = None
        self._touches = False
        """Whether the transaction whose end is still to come is about our table."""
        self._outdated = False
        """Whether the table has changed since it was listed."""
        self._untold: int | None = None
        """The changes by other programs since the last message about one, None if that is longer ago than a minute."""

    def start(self) -> None:
        """Subscribe to events, then list the table.

        A host without nftables is no error here. `apply` raises the error when a guest needs nftables. While our table
        does not exist, no context of libnftables is made, since it takes 8 MiB.
        """
        try:
            self._events = listen()
            self._now = self._read()
        except (OSError, HostError) as error:
            _log.debug("no nftables here", why=str(error))
        if self._events is not None:
            asyncio.get_running_loop().add_reader(self._events.fileno(), self.poll)

    def close(self) -> None:
        """Stop listening. The table stays as it is."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
            self._events = None

    def poll(self) -> None:
        """Process the waiting events. A table that can't be listed now is listed again before the next change."""
        self._outdated = bool(self._transactions()) or self._outdated
        try:
            if self._outdated and self._relist():
                self._tell()
        except HostError as error:
            _log.error("the nftables table of xennetd can't be listed", why=error.detail)

    def _tell(self) -> None:
        if self._untold is None:
            self._log_changes(1)
        else:
            self._untold += 1
        self._changed()

    def _log_changes(self, count: int) -> None:
        """Log one message a minute about changes by other programs, with their number: it may be a fight."""
        self._untold = 0
        text = "another program has changed the nftables table of xennetd"
        _log.warning(text, table=f"inet {TABLE}", times=count)
        asyncio.get_running_loop().call_later(_MINUTE, self._log_untold)

    def _log_untold(self) -> None:
        count, self._untold = self._untold, None
        if count:
            self._log_changes(count)

    def present(self, wanted: Ruleset | SetElement) -> Ruleset | SetElement | None:
        """Return the current chains as a Ruleset, or the element with its current value; None if it does not exist."""
        if isinstance(wanted, Ruleset):
            if self._now.dormant:
                return _NO_RULES
            if self._now.exists and self._now.chains == {chain.name: as_listed(chain) for chain in wanted.chains}:
                self._ruleset = wanted  # A listing has only the hashes of the rules.
                return wanted
            return self._current() if self._now.chains else None
        value = self._now.sets[wanted.set].get(plain(wanted.parts))
        if value is None:
            return None
        return wanted if value == plain(wanted.value) else SetElement(wanted.set, wanted.parts, value)

    def apply(self, wanted: Sequence[Ruleset | SetElement]) -> None:
        """Give the table exactly the chains of a Ruleset, and add elements. Raises HostError if nft refuses."""
        self._change(lambda: self._additions(wanted), ", ".join(item.describe() for item in wanted))
        self._ruleset = next((item for item in wanted if isinstance(item, Ruleset)), self._ruleset)

    def remove(self, objects: Sequence[Ruleset | SetElement]) -> None:
        """Remove the chains of a Ruleset and elements. Chains or values that are different by now stay.

        Raises HostError if nft refuses.
        """
        self._change(lambda: self._removals(objects), "to remove " + ", ".join(item.describe() for item in objects))

    def list_owned(self) -> Collection[Ruleset | SetElement]:
        """Return everything in our table except the sets in LASTING.

        The rules of a Ruleset that this process has not seen before are represented by their comments.
        """
        owned: list[Ruleset | SetElement] = [
            SetElement(name, key, value)
            for name, elements in self._now.sets.items()
            if name not in LASTING
            for key, value in elements.items()
        ]
        if self._now.chains:
            owned.append(self._current())
        if self._now.unreadable:
            owned.append(_NO_RULES)
        return owned

    def saved(self) -> dict[tuple[str, str], int]:
        """Return the original values of sysctls, by the link's index and the sysctl's number (`kernel.sysctls`)."""
        return {(key[0], key[1]): int(value[0]) for key, value in self._now.sets[SAVED_SYSCTLS].items()}

    def original(self, key: tuple[str, str]) -> int | None:
        """Return the original value of one sysctl, None if there is none."""
        value = self._now.sets[SAVED_SYSCTLS].get(key)
        return int(value[0]) if value is not None else None

    def marked(self, guest_only: str) -> Collection[str]:
        """Return the indexes of the links in a set of GUEST_ONLY_LINKS."""
        return [index for (index,) in self._now.sets[guest_only]]

    def save(
        self, values: Iterable[tuple[tuple[str, str], int, str | None]], marks: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Save original values of sysctls, and add links to sets of GUEST_ONLY_LINKS.

        A value is saved with the set that its link joins, if any. A mark is a set and the index of a link. Raises
        HostError if nft refuses. Then nothing is saved.
        """
        elements = [SetElement(guest_only, (index,)) for guest_only, index in marks]
        for key, value, guest_only in values:
            elements += [SetElement(SAVED_SYSCTLS, key, (str(value),))]
            elements += [SetElement(guest_only, key[:1])] if guest_only is not None else []
        self.apply(elements)

    def forget(self, keys: Iterable[tuple[str, str]], marks: Iterable[tuple[str, str]] = ()) -> None:
        """Delete original values of sysctls, and take links out of sets of GUEST_ONLY_LINKS. Raises HostError."""
        saved = self._now.sets[SAVED_SYSCTLS]
        elements = [SetElement(SAVED_SYSCTLS, key, saved.get(key, ("0",))) for key in keys]
        self.remove([*elements, *(SetElement(guest_only, (index,)) for guest_only, index in marks)])

    def _current(self) -> Ruleset:
        ruleset = self._ruleset
        if ruleset is not None and self._now.chains == {chain.name: as_listed(chain) for chain in ruleset.chains}:
            return ruleset
        chains = self._now.chains.items()
        return Ruleset(tuple(Chain(name, f"{chain.kind} {chain.hook}", chain.comments) for name, chain in chains))

    def _additions(self, wanted: Iterable[Ruleset | SetElement]) -> tuple[list[str], Listing]:
        """Return the commands that apply `wanted` to the view, and the listing after them."""
        then = _copy(self._now)
        commands: list[str] = []
        added: dict[str, list[str]] = {}
        for item in wanted:
            if self.present(item) == item:
                continue
            if isinstance(item, Ruleset):
                commands += changes(item, then)
                then.chains = {chain.name: as_listed(chain) for chain in item.chains}
                continue
            key, value = plain(item.parts), plain(item.value)
            if key in then.sets[item.set]:
                commands.append(_command("delete", item.set, [element_text(key)]))
            added.setdefault(item.set, []).append(element_text(key, value))
            then.sets[item.set][key] = value
        commands += [_command("add", name, elements) for name, elements in added.items()]
        if not commands:
            return [], then
        then.exists = True
        if not then.unreadable:
            return [*declarations(), *commands], then
        then.unreadable = False
        if not then.chains and self._ruleset is not None:
            then.chains = {chain.name: as_listed(chain) for chain in self._ruleset.chains}
            commands += changes(self._ruleset, Listing())
        anew = [f"delete table inet {TABLE}", *declarations(), *_elements(self._now.sets)]
        return [*anew, *commands], then

    def _removals(self, objects: Iterable[Ruleset | SetElement]) -> tuple[list[str], Listing]:
        """Return the commands that remove `objects` from the view as far as they exist, and the listing after them."""
        then = _copy(self._now)
        commands: list[str] = []
        deleted: dict[str, list[str]] = {}
        for item in objects:
            if isinstance(item, Ruleset):
                if then.unreadable:
                    return [f"delete table inet {TABLE}"], Listing()
                if then.chains and item == self._current():
                    commands += changes(None, then)
                    then.chains = {}
            elif then.sets[item.set].get(plain(item.parts)) == plain(item.value):
                deleted.setdefault(item.set, []).append(element_text(plain(item.parts)))
                del then.sets[item.set][plain(item.parts)]
        commands += [_command("delete", name, elements) for name, elements in deleted.items()]
        if commands and not then.chains and not any(then.sets.values()):
            return [f"delete table inet {TABLE}"], Listing()
        return commands, then

    def _change(self, plan: Callable[[], tuple[list[str], Listing]], what: str) -> None:
        """Commit the commands of `plan`. After a refusal, plan and commit once more: the view may have been outdated.

        `what` says in words what the commands do, for the error.
        """
        self.poll()
        if self._now.dormant:
            self._wake()
        for last in (False, True):
            commands, then = plan()
            if not commands:
                return
            refusal = self._nft.commit("\n".join(commands))
            if not refusal:
                was, self._now = self._now, then
                if self._transactions() > 1 and self._relist():
                    self._tell()
                elif was.unreadable:
                    self._changed()  # Guests' elements were in the old table, too.
                return
            if self._relist():
                self._tell()
            if last:
                raise HostError(f"nftables refuses {what}: {first_line(refusal)}", detail=f"{what}: {refusal.strip()}")

    def _read(self) -> Listing:
        """Return the current listing of our table. libnftables is used only if the table exists. Raises HostError."""
        try:
            flags = table_flags()
            if flags is None:
                return Listing()
            try:
                listing = self._nft.read()
            except UnreadableTable as error:
                listing = self._unreadable(error, dormant=bool(flags & DORMANT))
            except HostError:
                if table_flags() is None:
                    return Listing()  # It has just been deleted.
                raise
        except OSError as error:
            raise HostError(f"nftables can't be used: {error.strerror}", errno=error.errno or errno.EIO) from error
        listing.dormant = bool(flags & DORMANT)
        if listing.unreadable:
            listing.chains = {}
            if not self._now.unreadable:
                _log.error("the nftables table of xennetd holds what xennetd has not made, so it will be made anew")
        return listing

    def _unreadable(self, why: UnreadableTable, *, dormant: bool) -> Listing:
        """Return the listing of a table that nft can't print, from what is known of it.

        A dormant table will be readable once it is awake. Any other is made anew with the known contents.
        """
        _log.debug("nft can't print the table of xennetd", why=why.detail)
        listing = _copy(self._now)
        listing.exists, listing.unreadable = True, not dormant
        return listing

    def _wake(self) -> None:
        """Take the flag from a dormant table, and list it again: nft may print another listing now."""
        refusal = self._nft.commit(f"add table inet {TABLE}")
        if refusal:
            raise HostError(f"nftables refuses to wake table inet {TABLE}: {first_line(refusal)}")
        self._relist()

    def _relist(self) -> bool:
        """List the table again. Returns whether it differs from the view.

        Lost elements of the sets in LASTING are added again at once, because they are recorded nowhere else.
        """
        was, self._now = self._now, self._read()
        self._outdated = False
        lost = {
            name: {key: value for key, value in was.sets[name].items() if key not in self._now.sets[name]}
            for name in sorted(LASTING)
        }
        commands = _elements(lost)
        if commands:
            # A table that is made anew gets them then.
            later = self._now.unreadable
            refusal = "" if later else self._nft.commit("\n".join([*declarations(), *commands]))
            if refusal:
                _log.error("the original values of sysctls are lost", why=first_line(refusal))
            else:
                self._now.exists = True
                for name, elements in lost.items():
                    self._now.sets[name].update(elements)
        return was != self._now

    def _transactions(self) -> int:
        """Return the number of transactions about our table in the waiting events, xennetd's own included.

        Lost events (ENOBUFS) may be any number. They count as two, which makes the callers list the table again.
        """
        count = 0
        while self._events is not None:
            try:
                data = self._events.recv(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                count += 2
                continue
            for message in netlink.headers(data):
                if message.type == NEWGEN:
                    count += self._touches
                    self._touches = False
                elif not self._touches:
                    self._touches = OUR_NAME in data[message.start : message.end]
        return count


def _elements(sets: Mapping[str, Mapping[Parts, Parts]]) -> list[str]:
    """Return the commands that add all elements of these sets."""
    return [
        _command("add", name, [element_text(key, value) for key, value in elements.items()])
        for name, elements in sets.items()
        if elements
    ]


def _command(verb: str, name: str, elements: list[str]) -> str:
    return f"{verb} element inet {TABLE} {name} {{ {', '.join(elements)} }}"


def _copy(listing: Listing) -> Listing:
    sets = {name: dict(elements) for name, elements in listing.sets.items()}
    return Listing(listing.exists, listing.dormant, listing.unreadable, dict(listing.chains), sets)
