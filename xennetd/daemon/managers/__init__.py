"""Reads what the host's other network managers configure: ifupdown, systemd-networkd, NetworkManager, netplan.

Their own files say it: those of an administrator, and those in which a manager keeps its state. Any of them may hold
anything. What can't be understood claims nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from xennetd.daemon.managers.host_files import HostFiles
from xennetd.daemon.managers.ifupdown import of_ifupdown
from xennetd.daemon.managers.network_manager import of_network_manager
from xennetd.daemon.managers.networkd import of_networkd
from xennetd.model.manager_claim import ManagerClaims


def read_claims(names: Mapping[int, str], files: HostFiles | None = None) -> ManagerClaims:
    """Return what each manager that runs on this host claims, sorted by link and manager.

    `names` are the names of the host's links by their indexes. It takes milliseconds, and must not be done on a loop.
    """
    files = files or HostFiles()
    found = (*of_ifupdown(files), *of_networkd(files, names), *of_network_manager(files, names))
    return tuple(sorted(found, key=lambda claim: (claim.link, claim.manager)))
