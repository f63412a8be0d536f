"""Mode bridge: guests are ports of a bridge that exists. With no network it is what the stock vif-bridge does."""

from __future__ import annotations

from collections.abc import Iterator

from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.configuration import Mode, Network
from xennetd.model.link import Link
from xennetd.policy import bridged
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.mode import ModeModule, Request, keys

BRIDGE = Mode("bridge")


class BridgeMode(ModeModule):
    """Guests on a bridge of the administrator's."""

    mode = BRIDGE
    keys = keys("bridge")

    def attach(self, request: Request, assignment: Assignment) -> Attachment:
        return bridged.attach(request, assignment)

    def keeps(self, request: Request, link: Link, master: str | None) -> bool:
        return bridged.keeps(request, link, master)

    def unused_nodes(self, network: Network | None) -> frozenset[str]:
        return frozenset({"gatewaydev", "ip", "vlan"})

    def bridge(self, request: Request) -> str | None:
        return request.network.bridge if request.network is not None else request.vif.bridge

    def remarks(self, network: Network, host: HostNotes) -> Iterator[str]:
        if host.bridges is not None and network.bridge not in host.bridges:
            yield f'bridge "{network.bridge}" does not exist now'
