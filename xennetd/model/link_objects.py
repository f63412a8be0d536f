"""The host objects of the host's own topology: its links, and which link is a port of which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from xennetd.model.link_settings import FIXED, setting_words
from xennetd.model.marks import TOPOLOGY_GROUP
from xennetd.model.objects import Key, Keys, link_key
from xennetd.model.topology import LinkKind, Settings, SettingValue


@dataclass(frozen=True, slots=True)
class HostLink:
    """A link of the topology, up. A NIC exists or not; all others xennetd makes, marked by TOPOLOGY_GROUP, or adopts.

    Only what is wanted is compared: the `settings`, and `mac`, `mtu`, `silent`, `accept_ra` and `group` unless they are
    None. `group` is the mark of a link that is to be as it was: whoever made it then.
    `silent` says that the host answers neither ARP nor IPv6 there. `accept_ra` is the value of
    net.ipv6.conf.NAME.accept_ra: with 2 the host hears router advertisements there also if it forwards. `initial` and
    `initial_mac` are what a link also gets when it is made, and what nobody is then kept from changing. `found` says
    how a NIC is looked for, for messages.
    """

    kind: LinkKind
    name: str
    parent: str = ""
    settings: Settings = ()
    mac: str | None = None
    mtu: int | None = None
    silent: bool | None = None
    up: bool = True
    accept_ra: int | None = None
    group: int | None = None
    initial: Settings = field(default=(), compare=False)
    initial_mac: str | None = field(default=None, compare=False)
    found: str = field(default="", compare=False)

    @property
    def key(self) -> Key:
        """The link, by its name."""
        return link_key(self.name)

    @property
    def requires(self) -> Keys:
        """The parent of a VLAN. A bond and a bridge are made without their ports, too."""
        return frozenset({link_key(self.parent)} if self.parent else ())

    @property
    def made_with(self) -> Settings:
        """The settings of a new link: the initial ones, and the wanted ones in their place."""
        return tuple(sorted({**dict(self.initial), **dict(self.settings)}.items()))

    def describe(self) -> str:
        """Return the ip(8) command that makes the link. A NIC that is missing is waited for."""
        if self.kind == "nic":
            return f"wait for the NIC {self.name}" + (f" ({self.found})" if self.found else "")
        words = _words(self.mac or self.initial_mac, self.mtu, self.silent or None)
        on = [f"link {self.parent}"] if self.parent else []
        kind = f"group {TOPOLOGY_GROUP if self.group is None else self.group} type {self.kind}"
        options = _options(self.kind, dict(self.made_with))
        made = " ".join(("ip link add", *on, self.name, *words, kind, *options))
        return "; ".join((made, "set up", *self._sysctls(None)))

    def is_made_anew(self, was: HostLink) -> bool:
        """Return whether the link that is there must be deleted first, since the kernel can't change it into this."""
        had = dict(was.settings)
        fixed = any(name in FIXED and had.get(name) != value for name, value in self.settings)
        return was.kind != self.kind or was.parent != self.parent or fixed

    def describe_change(self, was: object) -> str:
        """Return the ip(8) command that changes the link, with what differs only."""
        if not isinstance(was, HostLink) or self.is_made_anew(was):
            return f"ip link delete {self.name}; {self.describe()}"
        had = dict(was.settings)
        wrong = {name: value for name, value in self.settings if had.get(name) != value}
        words = _words(
            self.mac if self.mac != was.mac else None,
            self.mtu if self.mtu != was.mtu else None,
            self.silent if self.silent != was.silent else None,
        )
        if self.group != was.group:
            words.append(f"group {self.group}")
        if self.up and not was.up:
            words.append("up")
        options = [f"type {self.kind}", *_options(self.kind, wrong)] if wrong else []
        changes = [" ".join(("ip link set", self.name, *words, *options))] if words or options else []
        return "; ".join((*changes, *self._sysctls(was.accept_ra)))

    def _sysctls(self, accept_ra: int | None) -> list[str]:
        wanted = self.accept_ra
        differs = wanted is not None and wanted != accept_ra
        return [f"sysctl net/ipv6/conf/{self.name}/accept_ra={wanted}"] if differs else []


def _words(mac: str | None, mtu: int | None, silent: bool | None) -> list[str]:
    words = [f"address {mac}"] if mac is not None else []
    words += [f"mtu {mtu}"] if mtu is not None else []
    return words + ([f"arp {'off' if silent else 'on'}"] if silent is not None else [])


def _options(kind: str, settings: Mapping[str, SettingValue]) -> list[str]:
    return [setting_words(kind, name, value) for name, value in sorted(settings.items())]


@dataclass(frozen=True, slots=True)
class HostPort:
    """A link that is a port of a bond or a bridge of the topology. An observed one may be another link's port."""

    link: str
    master: str

    @property
    def key(self) -> Key:
        """The port: a link has one master at most."""
        return Key("port", self.link)

    @property
    def requires(self) -> Keys:
        """Both links."""
        return frozenset({link_key(self.link), link_key(self.master)})

    def describe(self) -> str:
        """Return the ip(8) command that makes the link a port."""
        return f"ip link set {self.link} master {self.master}"

    def describe_change(self, was: object) -> str:
        """Return the same command: it takes the link out of what it is a port of now."""
        return self.describe()
