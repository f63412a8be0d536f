"""The policy that is in force. It is held here and nowhere else; who needs it asks for it each time."""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.configuration import Policy
from xennetd.policy.check import Notes


@dataclass(slots=True)
class InForce:
    """Holds the policy, and what `check` said of it when it came. A reload replaces both."""

    policy: Policy
    notes: Notes = ()

    @property
    def observes(self) -> bool:
        """Whether nothing may be changed, only reported."""
        return self.policy.daemon.mode == "observe"
