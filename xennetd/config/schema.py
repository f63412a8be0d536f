"""The keys of every section, with the type of a key's value, its valid values, and their description for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, ValidationError, convert

from xennetd.config.document import Place
from xennetd.config.grammar import address, bridge, is_domain, prefix6, subnet, target, uplink
from xennetd.config.pattern import MAC_SHAPE, UUID_SHAPE, can_match, matches
from xennetd.config.problem import Problem, shown
from xennetd.model.link import is_link_name
from xennetd.model.value import replace
from xennetd.model.vif import DOMID_FIRST_RESERVED

_SUN_PATH = 108
"""The size of sockaddr_un.sun_path in bytes, with its terminating NUL (unix(7))."""

_LONGEST_TEXT = 200
"""In characters. `deny` must fit into a xenstore node and a log line."""

_VIF_TYPES = ("vif", "vif_ioemu")


@dataclass(frozen=True, slots=True)
class Field:
    """The value of one key.

    msgspec converts the value to `type`; then `accepts` must return True, or else `refusal` is reported. `make` turns
    the text into the value for the policy; where it raises ValueError, the error's text is reported. Either `hint`
    describes the valid values in a phrase, or `choices` lists them all. With `many` the value is a non-empty array of
    such values, with `may_be_empty` also an empty one, and `alone` is a text that may stand in its place. `port_flag`
    names the bridge port's flag that the value decides. `attribute` names the attribute of `model.configuration.Rule`
    that gets the value of a key of [[policy]], where it is not called like the key.
    """

    type: Any
    hint: str = ""
    accepts: Callable[[Any], bool] = lambda value: True
    refusal: str = "not valid"
    choices: tuple[str, ...] = ()
    many: bool = False
    may_be_empty: bool = False
    alone: str = ""
    make: Callable[[Any], Any] | None = None
    port_flag: str = ""
    attribute: str = ""

    @property
    def allowed(self) -> tuple[str, ...]:
        """The valid values, as a Problem shows them."""
        return self.choices or (self.hint,)

    def read(self, place: Place, value: object, problems: list[Problem]) -> Any:
        """Return the value for the policy. If `value` is not valid, add to `problems` and return None."""
        if not self.many:
            return self._read_one(place, value, problems)
        if self.alone and value == self.alone:
            return self.alone
        if not isinstance(value, list) or not (value or self.may_be_empty):
            found = "an empty array" if value == [] else shown(value)
            text = "must be an array" if self.may_be_empty else "must be a non-empty array"
            problems.append(place.problem(text, found=found, allowed=self.allowed))
            return None
        values = tuple(self._read_one(place / i, item, problems) for i, item in enumerate(value))
        return None if None in values else values

    def _read_one(self, place: Place, value: object, problems: list[Problem]) -> Any:
        refusal = "not valid"
        try:
            converted = convert(value, self.type)
            if self.accepts(converted):
                return self.make(converted) if self.make is not None else converted
            refusal = self.refusal
        except ValidationError:
            pass
        except ValueError as error:
            refusal = str(error)
        like = value if self.choices and isinstance(value, str) else ""
        problems.append(place.problem(refusal, found=shown(value), allowed=self.allowed, like=like))
        return None


Fields = Mapping[str, Field]


def read_table(place: Place, table: dict[str, Any], known: Fields, problems: list[Problem]) -> dict[str, Any]:
    """Return the valid values of `table`. Invalid values and unknown keys are added to `problems` and left out."""
    values = {}
    for key, value in table.items():
        if key not in known:
            problems.append((place / key).problem("unknown key", allowed=tuple(known), like=key))
        elif (read := known[key].read(place / key, value, problems)) is not None:
            values[key] = read
    return values


def _is_socket_path(text: str) -> bool:
    return text.startswith("/") and not text.endswith("/") and text.isprintable() and len(text.encode()) < _SUN_PATH


def _is_basename_pattern(text: str) -> bool:
    return text.isprintable() and "/" not in text


def _is_sentence(text: str) -> bool:
    return text.isprintable() and text.strip() == text


_Text = Annotated[str, Meta(min_length=1, max_length=_LONGEST_TEXT)]
_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
_Domid = Annotated[int, Meta(ge=0, lt=DOMID_FIRST_RESERVED)]
_Port = Annotated[int, Meta(ge=1, le=0xFFFF)]
_Devid = Annotated[int, Meta(ge=0, le=0xFFFF)]

_FLAG = Field(bool, "true or false")
_PATTERN = Field(_Text, 'a shell-style pattern such as "web-*"', str.isprintable)
_BASENAME = Field(
    _Text, 'a pattern of a script\'s name without its directory, such as "vif-xennetd*"', _is_basename_pattern
)
_LINK = Field(str, "a link's name, 1 to 15 characters", is_link_name)
_SENTENCE = Field(_Text, f"one line of at most {_LONGEST_TEXT} printable characters", _is_sentence)

DAEMON: Fields = {
    "mode": Field(Literal["enforce", "observe"], choices=("enforce", "observe")),
    "control": Field(_Text, f"an absolute path of at most {_SUN_PATH - 1} bytes", _is_socket_path),
    "apply": Field(Literal["by-hand", "on-reload"], choices=("by-hand", "on-reload")),
    "scripts": replace(_BASENAME, many=True),
    "hooks": _FLAG,
    "devd": _FLAG,
    "stand_in": _FLAG,
}

NETWORK_NAME = Field(_Name, "at most 63 letters, digits, dots, hyphens and underscores, first a letter or digit")

NETWORK_KEYS: Fields = {
    "bridge": replace(_LINK, make=bridge),
    "subnets": Field(
        _Text, 'an IPv4 and an IPv6 network at most, such as "10.77.0.0/24" and "fd77::/64"', many=True, make=subnet
    ),
    "uplink": replace(_LINK, make=uplink),
    "dhcp": _FLAG,
    "ra": Field(Literal["slaac", "stateful", "off"], choices=("slaac", "stateful", "off")),
    "domain": Field(_Text, 'a DNS domain such as "lab.internal"', is_domain),
    "nat66": _FLAG,
    "nptv6": Field(_Text, 'an IPv6 prefix such as "2001:db8:77::/64"', make=prefix6),
    "forward": Field(dict, 'tables such as { proto = "tcp", port = 8080, to = "web-1:80" }', many=True),
    "gateway": Field(Literal["uplink", "link-local"], choices=("uplink", "link-local")),
    "proxy": _FLAG,
    "tx_checksum": _FLAG,
}
"""The keys of a network besides `mode`. A mode's module selects its keys from these, and may add its own."""


def choices(names: tuple[str, ...]) -> Field:
    """Return a field whose valid values are `names`."""
    return Field(str, accepts=names.__contains__, choices=names)


FORWARD: Fields = {
    "proto": Field(Literal["tcp", "udp"], choices=("tcp", "udp")),
    "port": Field(_Port, "a whole number from 1 to 65535"),
    "to": Field(_Text, 'a VM\'s name or an address, and a port, such as "web-1:80" or "[fd77::5]:80"', make=target),
}

MATCH: Fields = {
    "vm": _PATTERN,
    "uuid": Field(
        _Text,
        'a shell-style pattern of a UUID, such as "9f6c12ab-*"',
        lambda pattern: can_match(pattern.lower(), UUID_SHAPE),
        "can never match",
    ),
    "mac": Field(
        _Text,
        'a shell-style pattern of a MAC, such as "00:16:3e:*"',
        lambda pattern: can_match(pattern.lower(), MAC_SHAPE),
        "can never match",
    ),
    "bridge": _PATTERN,
    "script": _BASENAME,
    "type": Field(
        _Text,
        accepts=lambda pattern: any(matches(pattern, known) for known in _VIF_TYPES),
        refusal="can never match",
        choices=_VIF_TYPES,
    ),
    "devid": Field(_Devid, "a whole number from 0 to 65535"),
    "domid": Field(_Domid, f"a whole number from 0 to {DOMID_FIRST_RESERVED - 1}"),
}

RULE: Fields = {
    "name": _SENTENCE,
    "match": Field(dict, 'a table such as { vm = "web-*" }'),
    "network": Field(str, "the name of a network"),
    "deny": _SENTENCE,
    "ip": Field(_Text, 'addresses such as "10.77.0.5" or "fd77::5"', many=True, make=address, attribute="ips"),
    "mac": Field(Literal["stable"], choices=("stable",), make=bool, attribute="stable_mac"),
    "vlan": Field(Literal["ignore"], choices=("ignore",), make=bool, attribute="ignores_vlan"),
    "isolated": replace(_FLAG, port_flag="isolated"),
    "tx_checksum": _FLAG,
}
