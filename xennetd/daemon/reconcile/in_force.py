"""Holds the policy in force. Other parts read it here each time and keep no copy, since a reload replaces it."""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.configuration import Policy
from xennetd.policy.check import Notes


@dataclass(slots=True)
class InForce:
    """The policy in force, and the notes of `policy.check.check` from when it came into force."""

    policy: Policy
    notes: Notes = ()

    def put(self, policy: Policy, notes: Notes = ()) -> None:
        """Put a policy into force."""
        self.policy = policy
        self.notes = notes

    @property
    def observes(self) -> bool:
        """Whether the daemon is in observe mode: it reports what it would change, and changes nothing."""
        return self.policy.daemon.mode == "observe"
