"""The adapters for all host objects, each for the kind of key that it knows."""

from __future__ import annotations

from typing import Any

from xennetd.kernel.bridges import Bridges, HostAddresses
from xennetd.kernel.kernel import Kernel
from xennetd.kernel.sysctls import Sysctls
from xennetd.model.adapter import Adapter
from xennetd.nft.table import NftTable


def kernel_adapters(kernel: Kernel, table: NftTable) -> dict[str, Adapter[Any]]:
    """Return the adapter for each kind of object that the kernel and its nftables have."""
    return {
        "bridge": Bridges(kernel.links, kernel.ask),
        "address": HostAddresses(kernel.links, kernel.ask),
        "table": table,
        "element": table,
        "sysctl": Sysctls(kernel.links, table),
        "proxy": kernel.proxies,
    }
