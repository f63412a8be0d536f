"""The text of transactions that change our table.

A transaction that makes the table anew has all that is to be in it: nothing of the old table stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xennetd.model.marks import TABLE
from xennetd.model.objects import Ruleset
from xennetd.nft.library import Listing, Parts, as_listed, changes, declarations, element_text

DELETE_TABLE = f"delete table inet {TABLE}"


def additions(sets: Mapping[str, Mapping[Parts, Parts]]) -> list[str]:
    """Return the commands that add all elements of these sets."""
    return [
        element_command("add", name, [element_text(key, value) for key, value in members.items()])
        for name, members in sets.items()
        if members
    ]


def element_command(verb: str, name: str, members: Iterable[str]) -> str:
    """Return the command that adds or deletes elements of a set."""
    return f"{verb} element inet {TABLE} {name} {{ {', '.join(members)} }}"


def copied(listing: Listing) -> Listing:
    """Return a listing that can be changed without the original."""
    sets = {name: dict(members) for name, members in listing.sets.items()}
    return Listing(listing.exists, listing.dormant, listing.unreadable, dict(listing.chains), sets)


def replacement(then: Listing, rules: Ruleset | None) -> tuple[list[str], Listing]:
    """Return the commands that replace the table, in one transaction, by one with these rules and the sets of `then`.

    Returns no commands if `then` has other chains, of whose rules the text is not known.
    """
    chains = {chain.name: as_listed(chain) for chain in rules.chains} if rules is not None else {}
    if then.chains and then.chains != chains:
        return [], then
    then.unreadable, then.chains = False, chains
    made = changes(rules, Listing()) if rules is not None else ()
    return [DELETE_TABLE, *declarations(), *additions(then.sets), *made], then
