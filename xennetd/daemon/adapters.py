"""Maps each kind of host object to the adapter that observes and changes it."""

from __future__ import annotations

from typing import Any

from xennetd.kernel.bridges import Bridges, HostAddresses
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.sysctls import Sysctls
from xennetd.model.adapter import Adapter
from xennetd.nft.table import NftTable


def kernel_adapters(kernel: Kernel, table: NftTable, sysctls: Sysctls) -> dict[str, Adapter[Any]]:
    """Return the adapters of the objects that live in the kernel and in nftables, by the kind of their keys."""
    return {
        "bridge": Bridges(kernel.links, kernel.ask),
        "address": HostAddresses(kernel.links, kernel.ask),
        "table": table,
        "element": table,
        "sysctl": sysctls,
        "proxy": kernel.proxies,
        "offload": kernel.offloads,
    }
