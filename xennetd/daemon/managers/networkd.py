"""What systemd-networkd configures: systemd.network(5), systemd.netdev(5), and its state in /run/systemd/netif."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xennetd.daemon.managers.host_files import HostFiles, Ini, ini, is_true, last, netplan_files
from xennetd.model.manager_claim import Addressing, Manager, ManagerClaim

_STATE = "/run/systemd/netif"
_DIRECTORIES = (
    "/etc/systemd/network",
    "/run/systemd/network",
    "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network",
)
"""Where its files are. Of two files of one name the earlier directory's counts."""

_NETPLAN = "/run/systemd/network/10-netplan-"

_CONFIGURES = frozenset({"configuring", "configured", "failed"})
"""Values of ADMIN_STATE of links that it configures (networkctl(1))."""

_MASTERS = ("Bridge", "Bond", "VRF", "BatmanAdvanced")
_NO = frozenset({"", "no", "none", "false", "off", "0", "n", "f"})


def of_networkd(files: HostFiles, names: Mapping[int, str]) -> Iterator[ManagerClaim]:
    """Yield a claim for each link that networkd configures now, and for each link that it makes."""
    if not files.exists(_STATE):
        return  # it has not run since the host has started
    makers = dict(_netdevs(files))
    for index, name in sorted(names.items()):
        # "Private data": networkctl(1) prints it, but to start a program for each check takes longer. A change of the
        # format makes the claims unseen, and nothing else.
        state = ini("[link]\n" + files.read(f"{_STATE}/links/{index}"))
        path = last(state, "link", "NETWORK_FILE")
        if last(state, "link", "ADMIN_STATE") in _CONFIGURES and path:
            yield _configured(files, name, path, makers.pop(name, None))
    for name, path in sorted(makers.items()):
        manager, written = _written(files, path, name)
        yield ManagerClaim(manager, name, written, makes=True)


def _configured(files: HostFiles, name: str, path: str, maker: str | None) -> ManagerClaim:
    directory, _, file = path.rpartition("/")
    # The state is networkd's own user's to write, who must not choose what root reads.
    network = _parsed(files, path, file) if directory in {*_DIRECTORIES, "/lib/systemd/network"} else {}
    manager, written = _written(files, path, name)
    if maker is not None and manager != "netplan":
        written = (*written, maker)
    return ManagerClaim(
        manager=manager,
        link=name,
        files=written,
        makes=maker is not None,
        addressing=_addressing(network),
        master=None if not network or is_true(last(network, "Network", "KeepMaster")) else _master(network),
    )


def _parsed(files: HostFiles, path: str, name: str) -> Ini:
    """Return the values of a .network file and its drop-ins."""
    drop_ins = {
        each.rpartition("/")[2]: each
        for directory in reversed(_DIRECTORIES)
        for each in files.list(f"{directory}/{name}.d")
        if each.endswith(".conf")
    }
    return ini("\n".join(map(files.read, (path, *(drop_ins[each] for each in sorted(drop_ins))))))


def _addressing(network: Ini) -> Addressing:
    if last(network, "Network", "DHCP").lower() not in _NO:
        return "DHCP"
    if any(values.get("Address") for section, values in network.items() if section in {"Network", "Address"}):
        return "static"
    own = ("LinkLocalAddressing", "IPv6AcceptRA", "IPv6AcceptRouterAdvertisements")
    return "automatic" if any(last(network, "Network", key).lower() not in _NO for key in own) else ""


def _master(network: Ini) -> str:
    return next((master for key in _MASTERS if (master := last(network, "Network", key))), "")


def _netdevs(files: HostFiles) -> Iterator[tuple[str, str]]:
    """Yield the name of each link that networkd makes, and the path of the .netdev file."""
    paths = {
        path.rpartition("/")[2]: path
        for directory in reversed(_DIRECTORIES)
        for path in files.list(directory)
        if path.endswith(".netdev")
    }
    for path in paths.values():
        name = last(ini(files.read(path)), "NetDev", "Name")
        if name:
            yield name, path


def _written(files: HostFiles, path: str, name: str) -> tuple[Manager, tuple[str, ...]]:
    """Return who has written a file of networkd's, and the files that an administrator edits instead of netplan's."""
    if not path.startswith(_NETPLAN):
        return "systemd-networkd", (path,)
    section = path.removeprefix(_NETPLAN).rpartition(".")[0]
    return "netplan", netplan_files(files, section) or netplan_files(files, name) or (path,)
