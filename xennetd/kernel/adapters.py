"""The adapters for all host objects that the kernel has."""

from __future__ import annotations

from typing import Any

from xennetd.kernel.adapter import Adapter
from xennetd.kernel.bridges import Bridges, HostAddresses
from xennetd.kernel.host import Kernel
from xennetd.kernel.sysctls import Sysctls


def kernel_adapters(kernel: Kernel) -> dict[str, Adapter[Any]]:
    """Return the adapter for each kind of object that the kernel has."""
    return {
        "bridge": Bridges(kernel.links, kernel.ask),
        "address": HostAddresses(kernel.links, kernel.ask),
        "table": kernel.firewall,
        "element": kernel.firewall,
        "sysctl": Sysctls(kernel.links, kernel.firewall),
        "proxy": kernel.proxies,
    }
