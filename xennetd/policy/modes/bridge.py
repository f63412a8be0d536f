"""Mode bridge: guests are ports of an existing bridge. Without a network it does what the stock vif-bridge does."""

from __future__ import annotations

from collections.abc import Iterator

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import Link
from xennetd.policy import bridged
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.mode import AttachmentRequest, ModeModule, Remark, keys

BRIDGE = Mode("bridge")


class BridgeMode(ModeModule):
    """Guests are ports of a bridge that an administrator has made."""

    mode = BRIDGE
    keys = keys("bridge")

    def attach(self, request: AttachmentRequest, assignment: Assignment) -> Attachment:
        """Return a port of the network's bridge, or of the bridge that the vif's own nodes select."""
        return bridged.attach(request, assignment)

    def keeps(self, request: AttachmentRequest, link: Link, master: str | None) -> bool:
        """Return whether `master` is that bridge."""
        return bridged.keeps(request, link, master)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        """Return the nodes about layer 3."""
        return frozenset({"gatewaydev", "ip"})

    def bridge(self, request: AttachmentRequest) -> str | None:
        """Return the name of the network's bridge, or the vif's `bridge` node."""
        return request.network.bridge if request.network is not None else request.vif.bridge

    def remarks(self, network: Network, host: HostNotes) -> Iterator[Remark]:
        """Yield a remark if the bridge does not exist. It may appear later, so this is no error."""
        if host.bridges is not None and network.bridge not in host.bridges:
            yield Remark(f'bridge "{network.bridge}" does not exist now', ("bridge",))
