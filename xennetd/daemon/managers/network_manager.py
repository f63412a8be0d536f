"""What NetworkManager configures: its profiles (nm-settings-keyfile(5)) and its state in /run/NetworkManager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xennetd.daemon.managers.host_files import HostFiles, Ini, ini, is_true, last, netplan_files
from xennetd.model.manager_claim import Addressing, Manager, ManagerClaim, stronger

_STATE = "/run/NetworkManager/devices"
_PROFILES = (
    "/etc/NetworkManager/system-connections",
    "/run/NetworkManager/system-connections",
    "/usr/lib/NetworkManager/system-connections",
)
_NETPLAN = "netplan-"

_MADE = frozenset({"bridge", "bond", "vlan", "dummy", "vxlan", "macvlan", "veth", "team"})
"""Types of profiles whose link NetworkManager makes."""

_METHODS: Mapping[tuple[str, str], Addressing] = {
    ("ipv4", "auto"): "DHCP",
    ("ipv4", "manual"): "static",
    ("ipv4", "shared"): "static",
    ("ipv4", "link-local"): "automatic",
    ("ipv6", "auto"): "automatic",
    ("ipv6", "dhcp"): "DHCP",
    ("ipv6", "manual"): "static",
    ("ipv6", "link-local"): "automatic",
    ("ipv6", "shared"): "static",
}

_Profile = tuple[str, Ini]
"""The path and the values of a profile."""


def of_network_manager(files: HostFiles, names: Mapping[int, str]) -> Iterator[ManagerClaim]:
    """Yield a claim for each link that has a profile of NetworkManager's, and for each link that a profile makes."""
    if not files.exists(_STATE):
        return  # it has not run since the host has started
    profiles = _profiles(files)
    made = {
        name: profile
        for profile in profiles.values()
        if (name := last(profile[1], "connection", "interface-name"))
        and last(profile[1], "connection", "type") in _MADE
        and last(profile[1], "connection", "autoconnect").lower() not in {"false", "0"}
    }
    named = {last(profile[1], "connection", "interface-name"): profile for profile in profiles.values()}
    for index, name in sorted(names.items()):
        path = f"{_STATE}/{index}"
        state = ini(files.read(path))
        if not is_true(last(state, "device", "managed")):
            continue
        uuid = last(state, "device", "connection-uuid")
        # The UUID is not in the state until the profile is in force.
        profile = profiles.get(uuid) if uuid else named.get(name)
        if uuid or profile is not None:
            made.pop(name, None)
            # One of its plugins, or nobody, keeps a profile that is in no file.
            yield _claim(files, name, profile or (path, {}), profiles)
    for name, profile in sorted(made.items()):
        yield _claim(files, name, profile, profiles)


def _profiles(files: HostFiles) -> dict[str, _Profile]:
    """Return the profiles by their UUIDs."""
    found: dict[str, _Profile] = {}
    for directory in _PROFILES:
        for path in files.list(directory):
            values = ini(files.read(path))
            uuid = last(values, "connection", "uuid")
            if uuid:
                found.setdefault(uuid, (path, values))
    return found


def _claim(files: HostFiles, name: str, profile: _Profile, profiles: Mapping[str, _Profile]) -> ManagerClaim:
    path, values = profile
    addressing: Addressing = ""
    for family in ("ipv4", "ipv6"):
        addressing = stronger(addressing, _METHODS.get((family, last(values, family, "method")), ""))
    master = last(values, "connection", "controller") or last(values, "connection", "master")
    if master in profiles:
        master = last(profiles[master][1], "connection", "interface-name")
    manager, written = _written(files, path)
    return ManagerClaim(
        manager=manager,
        link=name,
        files=written,
        makes=last(values, "connection", "type") in _MADE,
        addressing=addressing,
        master=master or None,
    )


def _written(files: HostFiles, path: str) -> tuple[Manager, tuple[str, ...]]:
    """Return who has written a profile, and the files that an administrator edits instead of netplan's."""
    name = path.rpartition("/")[2]
    if not name.startswith(_NETPLAN):
        return "NetworkManager", (path,)
    section = name.removeprefix(_NETPLAN).removesuffix(".nmconnection")
    return "netplan", netplan_files(files, section) or (path,)
