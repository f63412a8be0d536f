"""The configuration that says what a host's links are already: what `xennetctl import` prints. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from xennetd.config.topology_schema import SETTINGS_OF
from xennetd.model.ip import IPInterface
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.link_settings import SETTINGS, VLAN_PROTOCOLS
from xennetd.model.manager_claim import ManagerClaim
from xennetd.model.text import visible
from xennetd.model.topology import SettingValue

_DEFAULTS: Mapping[str, Mapping[str, SettingValue]] = {
    "bridge": {
        "group_fwd_mask": 0,
        "mcast_querier": 0,
        "mcast_snooping": 1,
        "stp_state": 0,
        "vlan_filtering": 0,
    },
    "bond": {"xmit_hash_policy": 0, "lacp_rate": 0},
    "vxlan": {"learning": 1},
    "vlan": {"protocol": VLAN_PROTOCOLS["802.1Q"]},
}
"""Values that need not be said. A missing one is always said."""

_HUNDREDTHS = 100

_LONGEST = 1000
"""Characters of a comment."""


def topology_toml(
    links: Iterable[HostLink],
    ports: Collection[HostPort],
    ours: Mapping[str, Collection[IPInterface]],
    others: Mapping[str, Collection[IPInterface]],
    claims: Iterable[ManagerClaim] = (),
) -> str:
    """Return a TOML text whose apply changes nothing on a host with these links.

    `ours` are the addresses that xennetd has given. All `others` are named in comments: who gave them keeps them. So
    are the `claims` of other network managers, where one configures a link or makes it a port.
    """
    sources: dict[str, list[str]] = {}
    for claim in claims:
        # A file's name may hold anything, a line's end too.
        sources.setdefault(claim.link, []).append(visible(claim.source, _LONGEST))
    sections = []
    for link in links:
        if link.kind == "nic":
            continue
        lines = [f"[{link.kind}.{_key(link.name)}]"]
        lines += [f"# configured by {source}" for source in sources.get(link.name, ())]
        nics = [port.link for port in ports if port.master == link.name]
        lines += [f"# port {nic} configured by {source}" for nic in nics for source in sources.get(nic, ())]
        members = [_text(nic) for nic in nics]
        if members or link.kind == "bond":
            lines.append(f"ports = [{', '.join(members)}]")
        if link.parent:
            lines.append(f"parent = {_text(link.parent)}")
        lines += _settings(link)
        if link.mtu is not None and (link.kind == "bridge" or link.mtu != 1500):
            lines.append(f"mtu = {link.mtu}")
        given = ours.get(link.name, ())
        if given or link.silent:
            lines.append(f"addresses = [{', '.join(_text(str(each)) for each in given)}]")
        held = ", ".join(map(str, others.get(link.name, ())))
        if held:
            lines.append(f"# has {held}, which stay with whoever gave them")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n" if sections else "# This host has no bridge, bond, VLAN or dummy of its own.\n"


def _settings(link: HostLink) -> list[str]:
    keys = {name: key for key, name in SETTINGS_OF[link.kind].items()}
    lines = []
    for name, value in link.settings:
        if name in keys and _DEFAULTS.get(link.kind, {}).get(name) != value and (said := _said(link, name, value)):
            lines.append(f"{keys[name]} = {said}")
    return lines


def _said(link: HostLink, name: str, value: SettingValue) -> str:
    """Return a value as the configuration has it, an empty text for one that it can't say."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]" if value else ""
    if isinstance(value, str):
        return _text(value)
    if name == "forward_delay":
        return str(value // _HUNDREDTHS) if value % _HUNDREDTHS == 0 else ""
    if name == "protocol":
        return next((_text(word) for word, number in VLAN_PROTOCOLS.items() if number == value), "")
    words = SETTINGS[link.kind][name].words
    if words:
        return _text(words[value]) if value < len(words) else ""
    if name in {"stp_state", "vlan_filtering", "mcast_snooping", "mcast_querier", "learning"}:
        return "true" if value else "false"
    return str(value)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else _text(name)


def _text(text: str) -> str:
    return f'"{text}"'
