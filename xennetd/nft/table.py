"""The adapter for `Ruleset` and `SetElement`: a view of xennetd's nftables table, changed in transactions.

"Our table" is the one named TABLE, of family inet.
Rule 1: one call of `apply` or `remove` is one transaction: all of its changes or none.
Rule 2: the table exists while it has a chain or an element, and is deleted with the last of them.
Rule 3: another program may change the table (`systemctl restart nftables` deletes it). A netlink event about a foreign
transaction is the hint to list the table again. The event of xennetd's own transaction is no hint.
Rule 4: nothing is changed, and nothing counts as known, before the table has been listed once. A listing that fails,
and an event socket that can't be opened, are tried again before each change and every second.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog

from xennetd.model.errors import HostError
from xennetd.model.marks import TABLE
from xennetd.model.objects import Chain, Ruleset, SetElement
from xennetd.nft.commands import DELETE_TABLE, additions, copied, element_command, replacement
from xennetd.nft.events import NO_NFTABLES, TableEvents
from xennetd.nft.library import (
    LASTING,
    SAVED_SYSCTLS,
    Listing,
    Nft,
    UnreadableTable,
    as_listed,
    changes,
    declarations,
    element_text,
    first_line,
    plain,
)
from xennetd.nft.netfilter import DORMANT, table_flags

_log = structlog.get_logger()

_MINUTE = 60.0
"""Seconds between two messages about changes by other programs."""


_AGAIN = 1.0
"""Seconds until the table is listed again after a failure, or while there is no event socket."""

_NO_RULES = Ruleset(())
"""Stands for the rules of a table whose rules have no effect, or can't be read."""


class _Plan(Protocol):
    def __call__(self, *, anew: bool) -> tuple[list[str], Listing]:
        """Return commands and the listing after them. `anew`: they replace the whole table, in one transaction."""
        ...


class NftTable:
    """Our table. `changed` is called after another program has changed it, once the view is current."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._nft = Nft()
        self._now = Listing()
        self._ruleset: Ruleset | None = None
        self._events = TableEvents(self.poll)
        self._known = False
        """Whether the table has been listed once."""
        self._lost = False
        """Whether there was no table that could be read when it was listed for the first time."""
        self._outdated = True
        """Whether the table may have changed since it was listed."""
        self._failure = ""
        """Why the table could not be listed the last time. Empty if it could."""
        self._timer: asyncio.TimerHandle | None = None
        self._untold: int | None = None
        """The changes by other programs since the last message about one, None if that is longer ago than a minute."""

    def start(self) -> None:
        """Subscribe to events, then list the table.

        A host without nftables is no error here. `apply` raises the error when a guest needs nftables. While our table
        does not exist, no context of libnftables is made, since it takes 8 MiB.
        """
        self.poll()

    def close(self) -> None:
        """Stop listening. The table stays as it is."""
        self._events.close()
        if self._timer is not None:
            self._timer.cancel()

    def poll(self) -> None:
        """Process the waiting events. What fails is tried again: before the next change, and in a while."""
        with suppress(HostError):  # `_relist` has noted it.
            self._catch_up()

    def _poll_again(self) -> None:
        self._timer = None
        self.poll()

    def problems(self) -> list[str]:
        """Return a sentence for each reason why xennetd may not know what its table holds."""
        problems = []
        if self._failure:
            problems.append(f"the nftables table of xennetd can't be listed, so it stays as it is: {self._failure}")
        if self._events.deaf:
            problems.append(
                f"changes of nftables by other programs are noticed late: {self._events.deaf}; xennetd tries again"
            )
        return problems

    @property
    def known(self) -> bool:
        """Whether the table has been listed once. Before, it is not known what it holds."""
        return self._known

    @property
    def lost(self) -> bool:
        """Whether there was no table that could be read when it was listed for the first time."""
        return self._lost

    def _catch_up(self) -> None:
        """Bring the view up to date. Raises HostError if the table can't be listed."""
        try:
            if not self._events.is_open:
                self._events.open()
                self._outdated = True
            if self._events.transactions() or not self._events.is_open:
                self._outdated = True
            if not self._outdated:
                return
            first, late = not self._known, bool(self._failure)
            changed = self._relist()
            if first and late:
                self._changed()
            elif changed and not first:
                self._tell()
        finally:
            if self._timer is None and (self._outdated or self._events.deaf):
                self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._poll_again)

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
        self._change(partial(self._additions, wanted), ", ".join(item.describe() for item in wanted))
        self._ruleset = next((item for item in wanted if isinstance(item, Ruleset)), self._ruleset)

    def remove(self, objects: Sequence[Ruleset | SetElement]) -> None:
        """Remove the chains of a Ruleset and elements. Chains or values that are different by now stay.

        Raises HostError if nft refuses.
        """
        self._change(partial(self._removals, objects), "to remove " + ", ".join(item.describe() for item in objects))

    def list_owned(self) -> Collection[Ruleset | SetElement]:
        """Return everything in our table except the sets in LASTING.

        The rules of a Ruleset that this process has not seen before are represented by their comments. Raises HostError
        while the table has not been listed.
        """
        self._require_knowledge()
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
        self._require_knowledge()
        return {(key[0], key[1]): int(value[0]) for key, value in self._now.sets[SAVED_SYSCTLS].items()}

    def original(self, key: tuple[str, str]) -> int | None:
        """Return the original value of one sysctl, None if there is none."""
        self._require_knowledge()
        value = self._now.sets[SAVED_SYSCTLS].get(key)
        return int(value[0]) if value is not None else None

    def marked(self, guest_only: str) -> Collection[str]:
        """Return the indexes of the links in a set of GUEST_ONLY_LINKS."""
        self._require_knowledge()
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

    def _require_knowledge(self) -> None:
        """Raise HostError if the table has not been listed yet, after one more attempt."""
        if not self._known:
            self._catch_up()

    def _current(self) -> Ruleset:
        ruleset = self._ruleset
        if ruleset is not None and self._now.chains == {chain.name: as_listed(chain) for chain in ruleset.chains}:
            return ruleset
        chains = self._now.chains.items()
        return Ruleset(tuple(Chain(name, f"{chain.kind} {chain.hook}", chain.comments) for name, chain in chains))

    def _additions(self, wanted: Sequence[Ruleset | SetElement], *, anew: bool) -> tuple[list[str], Listing]:
        """Return the commands that apply `wanted` to the view, and the listing after them."""
        then = copied(self._now)
        commands: list[str] = []
        added: dict[str, list[str]] = {}
        rules: Ruleset | None = None
        for item in wanted:
            if self.present(item) == item:
                continue
            if isinstance(item, Ruleset):
                rules = item
                commands += changes(item, then)
                then.chains = {chain.name: as_listed(chain) for chain in item.chains}
                continue
            key, value = plain(item.parts), plain(item.value)
            if key in then.sets[item.set]:
                commands.append(element_command("delete", item.set, [element_text(key)]))
            added.setdefault(item.set, []).append(element_text(key, value))
            then.sets[item.set][key] = value
        commands += [element_command("add", name, elements) for name, elements in added.items()]
        if not commands:
            return [], then
        then.exists = True
        if then.unreadable or anew:
            return replacement(then, rules or self._kept_rules())
        return [*declarations(), *commands], then

    def _removals(self, objects: Sequence[Ruleset | SetElement], *, anew: bool) -> tuple[list[str], Listing]:
        """Return the commands that remove `objects` from the view as far as they exist, and the listing after them."""
        then = copied(self._now)
        commands: list[str] = []
        deleted: dict[str, list[str]] = {}
        rules = self._kept_rules()
        for item in objects:
            if isinstance(item, Ruleset):
                if then.unreadable or (then.chains and item == self._current()):
                    anew = anew or then.unreadable
                    commands += changes(None, then)
                    rules, then.chains = None, {}
            elif then.sets[item.set].get(plain(item.parts)) == plain(item.value):
                deleted.setdefault(item.set, []).append(element_text(plain(item.parts)))
                del then.sets[item.set][plain(item.parts)]
        commands += [element_command("delete", name, elements) for name, elements in deleted.items()]
        unreadable = then.unreadable and rules is None
        if (commands or unreadable) and not then.chains and not any(then.sets.values()):
            return [DELETE_TABLE], Listing()
        if (commands and anew) or unreadable:
            return replacement(then, rules)
        return commands, then

    def _kept_rules(self) -> Ruleset | None:
        """Return the rules that the table has, or had while it was readable, as far as their text is known."""
        return self._ruleset if self._now.chains or self._now.unreadable else None

    def _change(self, plan: _Plan, what: str) -> None:
        """Commit the commands of `plan`. After a refusal, plan and commit once more: the view may have been outdated.

        After the second refusal, try to make the table anew: something in it may refer to what must go. `what` says in
        words what the commands do, for the error.
        """
        self._catch_up()
        if self._now.dormant:
            self._wake()
        refusal = ""
        for anew in (False, False, True):
            commands, then = plan(anew=anew)
            if not commands and not anew:
                return
            if not commands:
                break
            refusal = self._nft.commit("\n".join(commands))
            if not refusal:
                was, self._now = self._now, then
                if self._events.transactions() > 1:
                    self._outdated = True
                    self.poll()
                elif was.unreadable:
                    self._changed()  # Guests' elements were in the old table, too.
                return
            if self._relist():
                self._tell()
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
            if error.errno in NO_NFTABLES:
                return Listing()
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
        listing = copied(self._now)
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
        self._outdated = True
        try:
            was, self._now = self._now, self._read()
        except HostError as error:
            if self._failure != error.detail:
                _log.error("the nftables table of xennetd can't be listed", why=error.detail)
            self._failure = error.detail
            raise
        if not self._known:
            self._lost = not self._now.exists or self._now.unreadable
        self._outdated, self._known, self._failure = False, True, ""
        lost = {
            name: {key: value for key, value in was.sets[name].items() if key not in self._now.sets[name]}
            for name in sorted(LASTING)
        }
        commands = additions(lost)
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
