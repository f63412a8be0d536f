"""Errors, named by who must act; anything else that is raised is a bug of ours.

An error carries two texts. `sentence` goes to the toolstack and into `hotplug-error`, which the guest can read: it
names the guest's own vif and host objects only. `detail` goes to the journal and to administrators, and may name
anything.
"""

from __future__ import annotations

SENTENCE_MAX = 1024
"""Characters of a sentence, which is ASCII: xenstored allows an unprivileged domain 2048 bytes in a node."""


class XennetdError(Exception):
    """Why a vif is not connected, in a sentence a person can act on.

    `waits_on` holds the names of links whose change is worth another try (a bridge that does not exist yet).
    """

    def __init__(self, sentence: str, *, detail: str = "", waits_on: frozenset[str] = frozenset()) -> None:
        super().__init__(sentence)
        self.sentence = sentence.encode("ascii", "backslashreplace").decode("ascii")[:SENTENCE_MAX]
        self.detail = detail or sentence
        self.waits_on = waits_on


class PolicyError(XennetdError):
    """The operator must act: a policy denies this vif, or names something that does not exist."""


class Denied(PolicyError):
    """A policy says that this vif gets no network."""


class GuestError(XennetdError):
    """The domain's configuration (its `vif=` line, as the toolstack wrote it) is wrong."""


class HostError(XennetdError):
    """The kernel refused a step. `errno` tells which refusal; messages are never parsed."""

    def __init__(
        self, sentence: str, *, errno: int = 0, detail: str = "", waits_on: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(sentence, detail=detail, waits_on=waits_on)
        self.errno = errno


class ToolstackError(XennetdError):
    """xenstore is unreachable, or refused what we need from it."""
