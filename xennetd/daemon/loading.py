"""Loads and checks the configuration files for a reload."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xennetd.daemon.host_checks import host_notes
from xennetd.model.configuration import Policy
from xennetd.model.link import Link
from xennetd.model.value import replace
from xennetd.policy.check import Notes, check, errors_of
from xennetd.policy.files import read_files


@dataclass(frozen=True, slots=True)
class Loaded:
    """The policy of the files, with the notes on it; or, without a policy, the sentences of the files' problems.

    `problems` may also be about a policy that can be loaded, and must not be put into force.
    """

    policy: Policy | None
    notes: Notes
    problems: tuple[str, ...]


def load_files(config: str | None, links: Collection[Link], *, observe: bool) -> Loaded:
    """Return what the file `config`, or the default files, say now. `links` are the host's.

    For 2,000 rules this takes a seventh of a second.
    """
    files = read_files(config)
    policy = files.load()
    if not isinstance(policy, Policy):
        return Loaded(None, (), tuple(problem.describe() for problem in policy))
    if observe:
        policy = observing(policy)
    notes = check(policy, host_notes(policy, links))
    return Loaded(policy, notes, tuple(files.placed(errors_of(notes))))


def unchangeable(before: Policy, after: Policy) -> list[str]:
    """Return a sentence for each setting that differs and that a running daemon can't change."""
    names = (name for name in ("control", "stand_in") if getattr(before.daemon, name) != getattr(after.daemon, name))
    return [f"daemon.{name} can't change while the daemon runs: restart it" for name in names]


def observing(policy: Policy) -> Policy:
    """Return `policy` in observe mode."""
    return replace(policy, daemon=replace(policy.daemon, mode="observe"))
