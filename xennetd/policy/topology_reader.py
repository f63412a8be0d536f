"""From the tables of the host's own topology to a Topology.

A table is read to its end. A faulty value is reported, and then left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

from xennetd.config.document import Place
from xennetd.config.problem import Problem, shown
from xennetd.config.schema import read_table
from xennetd.config.topology_schema import ADOPT, LINK_NAME, SECTIONS, SETTINGS_OF
from xennetd.model.topology import LinkKind, Settings, TopologyLink

_PARENT_AND_ID = re.compile(r"(?P<parent>.+)\.(?P<id>[1-9][0-9]{0,3})", re.DOTALL)
_LAST_VID = 4094


@dataclass(frozen=True, slots=True)
class LinkDraft:
    """A link as it was read, with its place. `faulty` are the keys whose values were not valid."""

    place: Place
    link: TopologyLink
    faulty: frozenset[str] = frozenset()


def read_link(place: Place, kind: str, name: str, table: dict[str, Any], problems: list[Problem]) -> LinkDraft:
    """Return the link that the table `[KIND.NAME]` describes."""
    before = len(problems)
    LINK_NAME.read(place, name, problems)
    named = len(problems) == before
    values = read_table(place, table, SECTIONS[kind], problems)
    faulty = table.keys() - values.keys()
    parent, settings = values.get("parent", ""), _settings(kind, values)
    if kind == "vlan" and named:
        parent, settings = _on_parent(place, name, values, faulty, problems)
    if kind == "nic" and {"mac", "path"} <= values.keys():
        problems.append((place / "path").problem("not beside mac: a NIC is found by one of the two"))
    adopts = values.get("addresses") == ADOPT
    link = TopologyLink(
        cast(LinkKind, kind),
        name,
        ports=values.get("ports", ()),
        parent=parent,
        settings=settings,
        mac=values.get("mac"),
        path=values.get("path"),
        mtu=values.get("mtu"),
        vlan_mtu=values.get("vlan_mtu"),
        tx_checksum=values.get("tx_checksum"),
        addresses=values.get("addresses") if not adopts else None,
        adopts=adopts,
    )
    return LinkDraft(place, link, frozenset(faulty))


def _settings(kind: str, values: dict[str, Any]) -> Settings:
    return tuple(sorted((name, values[key]) for key, name in SETTINGS_OF[kind].items() if key in values))


def _on_parent(
    place: Place, name: str, values: dict[str, Any], faulty: set[str], problems: list[Problem]
) -> tuple[str, Settings]:
    """Return the parent and the settings of a VLAN. Its name gives both (PARENT.ID), unless the keys do."""
    match = _PARENT_AND_ID.fullmatch(name)
    parent: str = values.get("parent") or (match["parent"] if match else "")
    vid = values.get("id", int(match["id"]) if match else None)
    fields = SECTIONS["vlan"]
    if not parent and "parent" not in faulty:
        text = "missing: the name does not have the form PARENT.ID"
        problems.append((place / "parent").problem(text, allowed=fields["parent"].allowed))
    if vid is None and "id" not in faulty:
        text = "missing: the name does not have the form PARENT.ID"
        problems.append((place / "id").problem(text, allowed=fields["id"].allowed))
    elif vid is not None and vid > _LAST_VID:
        problems.append(place.problem("no VLAN has this number", found=shown(vid), allowed=fields["id"].allowed))
    settings = dict(_settings("vlan", values))
    if vid is not None:
        settings["id"] = vid
    return parent, tuple(sorted(settings.items()))
