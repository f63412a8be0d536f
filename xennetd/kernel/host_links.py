"""The adapters for `HostLink` and `HostPort`: the links of the host's own topology, and their ports.

A link that xennetd makes has the link group TOPOLOGY_GROUP, and only such links are removed. A link that was there
already is adopted: it gets what is wanted of it, and stays when nobody wants it any more.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import cast

from xennetd.kernel import netlink, rtnl, rtnl_ip, rtnl_topology
from xennetd.kernel.bridges import Ask
from xennetd.kernel.links import Links, is_guest_port
from xennetd.kernel.procsys import read_sysctl, write_sysctl
from xennetd.kernel.refused import refused
from xennetd.kernel.rtnl_topology import LinkDetails
from xennetd.model.errors import HostError
from xennetd.model.link import IN6_ADDR_GEN_MODE_EUI64, IN6_ADDR_GEN_MODE_NONE, Link
from xennetd.model.link_objects import HostLink, HostPort
from xennetd.model.link_settings import FIXED, SETTINGS
from xennetd.model.marks import TOPOLOGY_GROUP
from xennetd.model.objects import HostObject, Sysctl
from xennetd.model.topology import MADE, ON_A_PARENT, LinkKind, SettingValue, Topology
from xennetd.model.value import replace

Read = Callable[[int], Sequence[bytes]]
"""`Kernel.read_link`: returns the datagrams of the kernel's answer about the link with this index."""

_NOT_NOW = frozenset({errno.EBUSY, errno.ENOTEMPTY, errno.EPERM, errno.EACCES})
"""How the kernel refuses a setting of a bond that is up, or that has ports (bond_opt_check_deps())."""


_OFF_AT_0 = frozenset({"miimon", "arp_interval", "arp_ip_target", "primary"})
_LACP = 4

_NOT_0 = frozenset({"forward_delay", "learning", "mcast_snooping", "miimon"})
"""The settings for which a new link may have another value than 0."""


def details_in(answer: Iterable[bytes]) -> LinkDetails | None:
    """Return the details of the link that the kernel's answer about one link describes, None if there is none."""
    for data in answer:
        for message in netlink.headers(data):
            if message.type == rtnl.RTM_NEWLINK:
                return rtnl_topology.parse_details(data, message)
    return None


def find_nics(topology: Topology, links: Links, read: Read) -> dict[str, str]:
    """Return the names of the NICs that a topology finds by MAC or bus device, by their names in the topology.

    A bond gives all its ports one MAC. So a NIC's MAC is its permanent one or, where it has none, the one that it had
    before it became a bond's port.
    """
    sought = [link for link in topology if link.kind == "nic" and (link.mac or link.path)]
    names: dict[str, str] = {}
    for link in links if sought else ():
        if link.kind in MADE or is_guest_port(link):
            continue
        details = details_in(read(link.index))
        if details is None:
            continue
        port = details.bond_port
        mac = details.permanent_mac or (port.own_mac if port is not None else "") or link.address
        for nic in sought:
            if mac == nic.mac or (details.bus_device and details.bus_device == nic.path):
                names.setdefault(nic.name, link.name)
    return names


class HostLinks:
    """The links of the host's own topology."""

    def __init__(self, links: Links, ask: Ask, read: Read) -> None:
        self._links = links
        self._ask = ask
        self._read = read

    def details(self, index: int) -> LinkDetails | None:
        """Return the details of the link with this index, None if there is none."""
        return details_in(self._read(index))

    def find_nics(self, topology: Topology) -> dict[str, str]:
        """Return `find_nics` of the host's links."""
        return find_nics(topology, self._links, self._read)

    @staticmethod
    def accept_ra(name: str) -> int | None:
        """Return the value of net.ipv6.conf.NAME.accept_ra, None without IPv6 or such a link. Raises OSError."""
        return read_sysctl(6, name, "accept_ra")

    def guests_on(self, name: str) -> list[str]:
        """Return the names of the guests' interfaces that are ports of a link."""
        link = self._links.link(name)
        return sorted(each.name for each in self._links if link and each.master == link.index and is_guest_port(each))

    def on_top(self, name: str) -> list[str]:
        """Return the names of the VLANs on a link."""
        link = self._links.link(name)
        vlans = [each for each in self._links if each.kind == "vlan"] if link is not None else []
        parents = ((each.name, self.details(each.index)) for each in vlans)
        return [each for each, details in parents if details and link is not None and details.parent == link.index]

    def present(self, wanted: HostLink) -> HostLink | None:
        """Return the link with the wanted name as it is now, as far as the wanted one has values; None without one."""
        link = self._links.link(wanted.name)
        if link is None:
            return None
        found = replace(
            wanted,
            mac=link.address if wanted.mac is not None else None,
            mtu=link.mtu if wanted.mtu is not None else None,
            silent=_silence(link) if wanted.silent is not None else None,
            up=link.up,
            accept_ra=self.accept_ra(link.name) if wanted.accept_ra is not None else None,
            group=link.group if wanted.group is not None else None,
        )
        if wanted.kind == "nic":
            return found
        details = self.details(link.index) or LinkDetails()
        if details.kind != wanted.kind:
            return replace(found, kind="nic", settings=())
        parent = self._links.by_index(details.parent)
        values = {name: self._value(name, details.settings.get(name)) for name, _ in wanted.settings}
        return replace(
            found,
            parent=parent.name if wanted.parent and parent is not None else "",
            settings=tuple((name, value) for name, value in values.items() if value is not None),
        )

    def whole(self, name: str) -> list[HostObject]:
        """Return a link with all its settings, and what it is a port of; nothing where there is no such link."""
        link = self._links.link(name)
        details = self.details(link.index) if link is not None else None
        if link is None or details is None:
            return []
        kind = cast(LinkKind, details.kind) if details.kind in SETTINGS else "nic"
        parent = self._links.by_index(details.parent) if kind in ON_A_PARENT else None
        values = _of_use(kind, details.settings)
        found = HostLink(
            kind,
            name,
            parent=parent.name if parent is not None else "",
            settings=tuple(
                sorted((each, value) for each, one in values.items() if (value := self._value(each, one)) is not None)
            ),
            mac=link.address if kind != "nic" else None,
            mtu=link.mtu,
            silent=_silence(link),
            up=link.up,
            accept_ra=self.accept_ra(link.name) if kind != "nic" else None,
            group=link.group if kind != "nic" else None,
        )
        master = self._links.by_index(link.master)
        return [found, HostPort(name, master.name)] if master is not None else [found]

    def _value(self, name: str, value: SettingValue | None) -> SettingValue | None:
        if name != "primary" or not isinstance(value, int):
            return value
        link = self._links.by_index(value)
        return link.name if link is not None else None

    def apply(self, wanted: Sequence[HostLink]) -> None:
        """Make missing links, and change existing ones. Raises HostError for the first that can't be as wanted."""
        for item in wanted:
            if self.present(item) == item:
                continue
            link = self._links.link(item.name)
            if link is None:
                link = self._make(item)
            elif item.kind != "nic":
                link = self._change(item, link)
            self._finish(item, link)

    def _make(self, wanted: HostLink) -> Link:
        if wanted.kind == "nic":
            found = f" with the {wanted.found}" if wanted.found else ""
            raise HostError(
                f'there is no NIC "{wanted.name}"{found}: what is built on it waits',
                errno=errno.ENODEV,
                waits_on=frozenset({wanted.name}),
            )
        parent = self._index(wanted.parent) if wanted.parent else 0
        # A new link has a value of 0 by itself. A kernel without VLAN filtering refuses to be told so.
        settings = {name: value for name, value in wanted.made_with if name != "primary" and (value or name in _NOT_0)}
        self._must(
            wanted,
            rtnl_topology.add_link,
            wanted.kind,
            wanted.name,
            TOPOLOGY_GROUP if wanted.group is None else wanted.group,
            settings,
            parent=parent,
            mac=wanted.mac or wanted.initial_mac,
        )
        link = self._link(wanted)
        if wanted.kind == "bridge":
            # A bridge follows the MTUs of its ports, guests' among them, until somebody has set its own to another
            # value (BROPT_MTU_SET_BY_USER).
            mtu = wanted.mtu or link.mtu
            for value in (mtu - 1, mtu):
                self._must(wanted, rtnl.set_link, link.index, mtu=value)
        return self._link(wanted)

    def _change(self, wanted: HostLink, link: Link) -> Link:
        """Give a link its settings; a VLAN with another number or parent is made anew, if xennetd made it."""
        now = self.present(wanted)
        if now is None or now.kind != wanted.kind:
            kind = (self.details(link.index) or LinkDetails()).kind
            raise HostError(
                f'"{wanted.name}" can\'t be made: there is a {kind or "link"} of that name; '
                f"remove it, or give the {wanted.kind} another name",
                errno=errno.EEXIST,
                waits_on=frozenset({wanted.name}),
            )
        had = dict(now.settings)
        wrong = {name: value for name, value in wanted.settings if had.get(name) != value}
        if now.parent != wanted.parent or not FIXED.isdisjoint(wrong):
            if not link.is_of_topology:
                raise HostError(
                    f'"{wanted.name}" can\'t be changed to `{wanted.describe()}`: xennetd did not make it; '
                    "remove it, and xennetd makes another one",
                    errno=errno.EEXIST,
                    waits_on=frozenset({wanted.name}),
                )
            self._must(wanted, rtnl.delete_link, link.index)
            return self._make(wanted)
        if wrong:
            request = (rtnl_topology.change_settings, link.index, wanted.kind, self._indexed(wrong))
            ack = self._ask(*request)
            if ack.errno in _NOT_NOW and wanted.kind == "bond":
                # Its ports come back with the next Steps. A bond takes a port down that leaves, also one that does not
                # come back, and on which something else is built.
                for port in [port for port in self._links if port.master == link.index]:
                    self._must(wanted, rtnl.set_link, port.index, master=0)
                    if port.up:
                        self._must(wanted, rtnl.set_link, port.index, up=True)
                self._must(wanted, rtnl.set_link, link.index, up=False)
                ack = self._ask(*request)
            if ack.errno:
                raise refused(wanted, ack)
        return self._link(wanted)

    def _finish(self, wanted: HostLink, link: Link) -> None:
        """Set what links of all kinds have, and bring the link up."""
        properties: dict[str, object] = {}
        if wanted.mac is not None and wanted.kind != "nic" and link.address != wanted.mac:
            properties["address"] = wanted.mac
        if wanted.group is not None and link.group != wanted.group:
            properties["group"] = wanted.group
        if wanted.mtu is not None and link.mtu != wanted.mtu:
            properties["mtu"] = wanted.mtu
        if wanted.silent is not None and _silence(link) != wanted.silent:
            properties["arp"] = not wanted.silent
            if self._links.has_ipv6 and (wanted.silent or link.addr_gen_mode == IN6_ADDR_GEN_MODE_NONE):
                properties["addr_gen_mode"] = IN6_ADDR_GEN_MODE_NONE if wanted.silent else IN6_ADDR_GEN_MODE_EUI64
        if properties:
            self._must(wanted, rtnl.set_link, link.index, **properties)
        for address in link.addresses if wanted.silent else ():
            if address.is_link_local:  # made before the link was silent
                self._must(wanted, rtnl_ip.delete_address, link.index, address)
        # Before the link is up: the first advertisement is asked for then.
        if wanted.accept_ra is not None and self.accept_ra(link.name) not in (None, wanted.accept_ra):
            self._set_accept_ra(wanted.name, wanted.accept_ra)
        if link.up != wanted.up:
            self._must(wanted, rtnl.set_link, link.index, up=wanted.up)

    @staticmethod
    def _set_accept_ra(name: str, value: int) -> None:
        sysctl = Sysctl(6, name, "accept_ra", value)
        try:
            write_sysctl(sysctl)
        except OSError as error:
            raise HostError(
                f"{sysctl.path} can't be set to {value}: {error.strerror}", errno=error.errno or 0
            ) from error

    def _must(self, wanted: HostLink, request: Callable[..., bytes], *args: object, **kwargs: object) -> None:
        ack = self._ask(request, *args, **kwargs)
        if ack.errno:
            raise refused(wanted, ack)

    def _link(self, wanted: HostLink) -> Link:
        link = self._links.link(wanted.name)
        if link is None:
            raise HostError(
                f'"{wanted.name}" was removed a moment ago', errno=errno.ENODEV, waits_on=frozenset({wanted.name})
            )
        return link

    def _index(self, name: str) -> int:
        link = self._links.link(name)
        if link is None:
            raise HostError(f'there is no link "{name}"', errno=errno.ENODEV, waits_on=frozenset({name}))
        return link.index

    def _indexed(self, settings: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
        return {name: self._index(str(value)) if name == "primary" else value for name, value in settings.items()}

    def remove(self, objects: Sequence[HostLink]) -> None:
        """Delete links that xennetd made. Others stay, and a missing one is no error.

        Raises HostError for a link with guests on it.
        """
        for item in objects:
            link = self._links.link(item.name)
            if link is None or not link.is_of_topology:
                continue
            if guests := self.guests_on(item.name):
                raise HostError(f'"{item.name}" stays while guests are on it: {", ".join(guests)}', errno=errno.EBUSY)
            ack = self._ask(rtnl.delete_link, link.index)
            if ack.errno not in (0, errno.ENODEV):
                raise refused(item, ack)

    def list_owned(self) -> Collection[HostLink]:
        """Return all links that xennetd made for a topology, by kind and name only."""
        ours = [link for link in self._links if link.is_of_topology]
        return [HostLink(link.kind, link.name) for link in ours if link.kind in MADE]  # type: ignore[arg-type] # a LinkKind


class HostPorts:
    """The ports of the topology's bonds and bridges. Guests' ports are none of them."""

    def __init__(self, links: Links, ask: Ask) -> None:
        self._links = links
        self._ask = ask

    def present(self, wanted: HostPort) -> HostPort | None:
        """Return what the link is a port of now, None if of nothing."""
        link = self._links.link(wanted.link)
        master = self._links.by_index(link.master) if link is not None and link.master else None
        return HostPort(wanted.link, master.name) if master is not None else None

    def apply(self, wanted: Sequence[HostPort]) -> None:
        """Make links ports. A bond takes only links that are down, and brings them up."""
        for item in wanted:
            link, master = self._links.link(item.link), self._links.link(item.master)
            if link is None or master is None:
                missing = item.link if link is None else item.master
                raise HostError(f'there is no link "{missing}"', errno=errno.ENODEV, waits_on=frozenset({missing}))
            if link.master == master.index:
                continue
            of_bond = master.kind == "bond"
            # One request: between two, another program could bring the link up again.
            self._must(item, link.index, master=master.index, up=False if of_bond else None)
            if of_bond or not link.up:
                self._must(item, link.index, up=True)

    def _must(self, item: HostPort, index: int, **properties: object) -> None:
        ack = self._ask(rtnl.set_link, index, **properties)
        if ack.errno:
            raise refused(item, ack)

    def remove(self, objects: Sequence[HostPort]) -> None:
        """Take ports out of the link that they are a port of by us. A port of another link by now stays there.

        A bond takes a port down that leaves; it is brought up again.
        """
        for item in objects:
            link, master = self._links.link(item.link), self._links.link(item.master)
            if link is None or master is None or link.master != master.index:
                continue
            for properties in ({"master": 0}, {"up": True}) if link.up else ({"master": 0},):
                ack = self._ask(rtnl.set_link, link.index, **properties)
                if ack.errno not in (0, errno.ENODEV):
                    raise refused(item, ack)

    def list_owned(self) -> Collection[HostPort]:
        """Return none: a port has no mark. The topology that was in force says which ports it had."""
        return ()


def _of_use(kind: str, settings: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    """Return the settings that a new link of this kind takes: some of a bond's exclude each other."""
    if kind != "bond":
        return dict(settings)
    found = {name: value for name, value in settings.items() if value or name not in _OFF_AT_0}
    if found.get("mode") != _LACP:
        found.pop("lacp_rate", None)
    return found


def _silence(link: Link) -> bool | None:
    """Return whether the host is silent on a link, None if in one IP version only."""
    if not link.has_no_arp:
        return False
    speaks = link.addr_gen_mode != IN6_ADDR_GEN_MODE_NONE or any(each.is_link_local for each in link.addresses)
    return None if speaks else True
