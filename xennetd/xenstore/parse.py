"""Parses the raw nodes of a backend directory into a `Vif`.

Rule 1: for any bytes, the parser raises no error. An unusable value becomes a `Fault`, whose sentence says what was
found and what is allowed.
Rule 2: the result contains only printable ASCII; other bytes are escaped.
Rule 3: an empty node counts as a missing one. libxl writes an empty `hotplug-status`; in all other nodes an empty value
has no meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_interface
from typing import Any, Final, TypeVar

from xennetd.model.ip import IPInterface
from xennetd.model.link import IFNAMSIZ, is_link_name
from xennetd.model.text import visible
from xennetd.model.value import replace
from xennetd.model.vif import DOMID_FIRST_RESERVED, Fault, Vif, VifId, XenbusState

NODES: Final = (
    "state", "online", "frontend", "script", "type", "mac", "bridge", "ip", "mtu", "vlan", "vifname",
    "gatewaydev", "hotplug-status", "hotplug-error", "xennetd-tap", "xennetd-pin",
)  # fmt: skip
"""The nodes of a backend directory that xennetd reads. `rate` and `handle` concern only netback."""

MTU_MIN: Final = 68
MTU_MAX: Final = 65535
VALUE_MAX: Final = 2048
"""The longest value in bytes: xenstored's default limit for the nodes of an unprivileged domain."""

NAME_MAX: Final = 255
_TAP_SUFFIX: Final = "-emu"
_MIGRATION_SUFFIXES: Final = ("--incoming", "--migratedaway")

_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]+(?:/\d{1,3})?")
_VM = re.compile(rb"/vm/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")

T = TypeVar("T")


class _Unusable(ValueError):
    """A value is not allowed for its node. The text says which values are."""


def parse_number(untrusted: str) -> int | None:
    """Return the domid or devid in a directory's name, None if the name is not such a number."""
    return int(untrusted) if _NUMBER.fullmatch(untrusted) else None


def parse_id(untrusted_domid: str, untrusted_devid: str) -> VifId | None:
    """Return the vif whose backend directory is DOMID/DEVID, None if these are not the ids of a vif."""
    domid, devid = parse_number(untrusted_domid), parse_number(untrusted_devid)
    if domid is None or devid is None or domid >= DOMID_FIRST_RESERVED:
        return None
    return VifId(domid, devid)


def parse_vif(
    vif: VifId,
    untrusted_nodes: Mapping[str, bytes | None],
    untrusted_name: bytes | None = None,
    untrusted_vm: bytes | None = None,
    untrusted_mtu: bytes | None = None,
) -> Vif:
    """Return the vif in a backend directory. Never raises; see `Vif.faults`.

    `untrusted_name` and `untrusted_vm` are the nodes `name` and `vm` of `/local/domain/D`. `untrusted_mtu` is the
    frontend's node `mtu`.
    """
    faults: list[Fault] = []

    def node(name: str, parse: Callable[[str], T]) -> T | None:
        untrusted = untrusted_nodes.get(name)
        if not untrusted:
            return None
        try:
            return parse(_printable(untrusted))
        except _Unusable as problem:
            faults.append(Fault(name, f'{name} is "{visible(untrusted)}": {problem}'))
            return None

    kind = node("type", _type) or "vif"

    def vifname(text: str) -> str:
        return _vifname(text, vif, has_tap=kind == "vif_ioemu")

    return Vif(
        id=vif,
        state=node("state", _state) or XenbusState.UNKNOWN,
        online=node("online", _online) or False,
        script=node("script", str) or "",
        frontend=node("frontend", str) or "",
        type=kind,
        mac=node("mac", _mac),
        bridge=node("bridge", _bridge),
        ips=node("ip", _ips) or (),
        mtu=node("mtu", _mtu),
        vlan=node("vlan", _vlan),
        vifname=node("vifname", vifname),
        gatewaydev=node("gatewaydev", _gatewaydev),
        vm=parse_name(untrusted_name),
        uuid=parse_uuid(untrusted_vm),
        frontend_mtu=int(untrusted_mtu)
        if untrusted_mtu and untrusted_mtu.isdigit() and len(untrusted_mtu) < 6
        else None,
        **{attribute: parse(untrusted_nodes.get(node)) for node, (attribute, parse) in _SHOWN.items()},
        faults=tuple(faults),
    )


def update_vif(old: Vif, untrusted_nodes: Mapping[str, bytes | None], changed: Iterable[str]) -> Vif | None:
    """Return the vif that `parse_vif` would return after only the nodes `changed` have changed. Never raises.

    Returns None if the whole directory must be parsed for that. This is the short way for the nodes that change during
    a vif's life; the new vif shares all other values with `old`.
    """
    values: dict[str, Any] = {}
    for node in changed:
        untrusted = untrusted_nodes.get(node)
        if node == "state":
            state = _STATES.get(untrusted)
            if state is None or old.state is XenbusState.UNKNOWN:  # The old or the new value may be a fault.
                return None
            values["state"] = state
        elif node in _SHOWN:
            attribute, parse = _SHOWN[node]
            values[attribute] = parse(untrusted)
        else:
            return None
    return replace(old, **values)


def parse_name(untrusted: bytes | None) -> str | None:
    """Return a domain's name in a printable form, without the suffix that it has during a migration."""
    name = _shown(untrusted)
    if name is None:
        return None
    for suffix in _MIGRATION_SUFFIXES:
        name = name.removesuffix(suffix)
    return name or None


def parse_uuid(untrusted: bytes | None) -> str | None:
    """Return the UUID in `/vm/UUID` in lower case, None if the value has another form."""
    match = _VM.fullmatch(untrusted or b"")
    return match[1].decode("ascii").lower() if match else None


def _printable(untrusted: bytes) -> str:
    if len(untrusted) > VALUE_MAX:
        raise _Unusable(f"must be at most {VALUE_MAX} bytes long, not {len(untrusted)}")
    text = untrusted.decode("latin-1")
    if not (untrusted.isascii() and text.isprintable()):
        raise _Unusable("must be printable ASCII")
    return text


def _shown(untrusted: bytes | None) -> str | None:
    """Return a value in a printable form. It is only shown or compared, so any value is allowed."""
    if not untrusted:
        return None
    if len(untrusted) > NAME_MAX or not untrusted.isascii():
        return visible(untrusted, NAME_MAX)
    text = untrusted.decode("ascii")
    return text if text.isprintable() else visible(text, NAME_MAX)


def _sentence(untrusted: bytes | None) -> str | None:
    """Return the sentence of an error: one line of printable ASCII. Any other value is not xennetd's, so None."""
    if not untrusted or len(untrusted) > VALUE_MAX or not untrusted.isascii():
        return None
    text = untrusted.decode("ascii")
    return text if text.isprintable() else None


_SHOWN: Final[Mapping[str, tuple[str, Callable[[bytes | None], Any]]]] = {
    "hotplug-status": ("hotplug_status", _shown),
    "hotplug-error": ("hotplug_error", _sentence),
    "xennetd-tap": ("tap_status", _shown),
    "xennetd-pin": ("pinned", bool),
}
"""The nodes that can't be faulty, with the attribute of `Vif` and its parser."""

_STATES: Final[Mapping[bytes | None, XenbusState]] = {b"%d" % state: state for state in XenbusState if state}


def _state(text: str) -> XenbusState:
    if len(text) == 1 and "0" <= text <= "8":
        return XenbusState(int(text))
    raise _Unusable("must be a xenbus state, a number from 0 to 8")


def _online(text: str) -> bool:
    if text in ("0", "1"):
        return text == "1"
    raise _Unusable("must be 0 or 1")


def _type(text: str) -> str:
    if text in ("vif", "vif_ioemu"):
        return text
    raise _Unusable("must be vif or vif_ioemu")


def _mac(text: str) -> str:
    if not _MAC.fullmatch(text):
        raise _Unusable("must be six hexadecimal bytes like 00:16:3e:01:02:03")
    if int(text[:2], 16) & 1:
        raise _Unusable("a multicast address, must be a unicast one")
    if not text.strip("0:"):
        raise _Unusable("must not be all zeroes")
    return text.lower()


def _bridge(text: str) -> str:
    if len(text) > NAME_MAX or " " in text:
        raise _Unusable(f"must be a bridge's name without blanks, at most {NAME_MAX} characters long")
    return text


def _ips(text: str) -> tuple[IPInterface, ...]:
    return tuple(_ip(word) for word in text.split())


def _ip(word: str) -> IPInterface:
    # The expression refuses the other forms that ipaddress takes: scopes, netmasks and host masks.
    if _ADDRESS.fullmatch(word):
        try:
            return ip_interface(word)
        except ValueError:
            pass
    raise _Unusable(f"{visible(word, 60)} must be an IPv4 or IPv6 address like 192.0.2.7 or 2001:db8::7/64")


def _mtu(text: str) -> int:
    if text.isdigit() and len(text) <= 5 and MTU_MIN <= int(text) <= MTU_MAX:
        return int(text)
    raise _Unusable(f"must be a number from {MTU_MIN} to {MTU_MAX}")


def _vlan(text: str) -> str:
    if len(text) > NAME_MAX:
        raise _Unusable(f"must be at most {NAME_MAX} characters long")
    return text


def _vifname(text: str, vif: VifId, *, has_tap: bool) -> str:
    longest = IFNAMSIZ - 1 - (len(_TAP_SUFFIX) if has_tap else 0)
    if len(text) > longest:
        because = f", because its tap's name has {_TAP_SUFFIX} after it" if has_tap else ""
        raise _Unusable(f"must be at most {longest} characters long{because}")
    if not is_link_name(text):
        raise _Unusable(
            "must be a link's name, neither all nor default, without blanks and without any of / : % \\ and quotes"
        )
    if text != vif.netdev and VifId.parse(text.removesuffix(_TAP_SUFFIX)) is not None:
        raise _Unusable("must not be the name that another interface has by default")
    return text


def _gatewaydev(text: str) -> str:
    if not is_link_name(text):
        raise _Unusable(f"must be a link's name of at most {IFNAMSIZ - 1} characters")
    return text
