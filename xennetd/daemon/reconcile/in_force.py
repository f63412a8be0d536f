"""Holds the policy in force. Other parts read it here each time and keep no copy, since a reload replaces it."""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.configuration import Policy
from xennetd.policy.check import Notes


@dataclass(slots=True)
class InForce:
    """The policy in force, and the notes of `policy.check.check` from when it came into force.

    `enforced` is the policy that the host was brought to last: in observe mode an earlier one than `policy`. It is None
    if the daemon has only observed. `unconfirmed` are the names of the host's own links that an apply has made and that
    wait for their confirmation: no connected guest is moved there.
    """

    policy: Policy
    notes: Notes = ()
    enforced: Policy | None = None
    unconfirmed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.put(self.policy, self.notes)

    def put(self, policy: Policy, notes: Notes = ()) -> None:
        """Put a policy into force."""
        self.policy = policy
        self.notes = notes
        if not self.observes:
            self.enforced = policy

    @property
    def observes(self) -> bool:
        """Whether the daemon is in observe mode: it reports what it would change, and changes nothing."""
        return self.policy.daemon.mode == "observe"
