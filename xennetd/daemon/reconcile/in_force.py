"""The policy that is in force. It is held here and nowhere else; who needs it asks for it each time."""

from __future__ import annotations

from dataclasses import dataclass

from xennetd.model.policy import Policy


@dataclass(slots=True)
class InForce:
    """Holds the policy. A reload replaces it."""

    policy: Policy

    @property
    def observes(self) -> bool:
        """Whether nothing may be changed, only reported."""
        return self.policy.daemon.mode == "observe"
