"""Errors, named by who must act. Any other exception is a bug in xennetd.

An error carries two texts. `sentence` goes to the toolstack and into `hotplug-error`, which the guest can read: it
names the guest's own vif and host objects only. `detail` goes to the journal and to administrators, and may name
anything.
"""

from __future__ import annotations

SENTENCE_MAX = 1024
"""The most characters of a sentence, which is ASCII: xenstored allows an unprivileged domain 2048 bytes in a node."""


class XennetdError(Exception):
    """Why a vif is not connected, in a sentence that a person can act on.

    `waits_on` names the links, and the other things (`policy.bridged.ANY_BRIDGE`), whose change is worth another try.
    A bridge that does not exist yet is one of them.
    """

    def __init__(self, sentence: str, *, detail: str = "", waits_on: frozenset[str] = frozenset()) -> None:
        super().__init__(sentence)
        self.sentence = sentence.encode("ascii", "backslashreplace").decode("ascii")[:SENTENCE_MAX]
        self.detail = detail or sentence
        self.waits_on = waits_on


class PolicyError(XennetdError):
    """The operator must act: the configuration denies this vif, or names something that the host lacks."""


class Denied(PolicyError):
    """A policy says that this vif gets no network."""


class GuestError(XennetdError):
    """The domain's configuration (its `vif=` line, as the toolstack wrote it) is wrong."""


class HostError(XennetdError):
    """The host's administrator must act: the kernel refused a step, or the host lacks something.

    `errno` is the kernel's error number (errno(3)), 0 if there is none. xennetd never parses error messages.
    """

    def __init__(
        self, sentence: str, *, errno: int = 0, detail: str = "", waits_on: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(sentence, detail=detail, waits_on=waits_on)
        self.errno = errno


class EventsLost(HostError):
    """xennetd gets no events of the kernel any more. The process ends, and systemd starts another one."""


class ToolstackError(XennetdError):
    """xenstore is unreachable, or it refused a request that xennetd depends on."""
