"""The policy as frozen values: what the configuration files say, checked and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from xennetd.model.attachment import Mode
from xennetd.model.places import CONTROL


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """`[daemon]`. `scripts` are shell-style patterns of a hotplug script's basename; a backend that names one is ours.

    `hooks` runs the `vif-post.d/*.hook` files as the stock scripts do. `devd` serves a driver domain in the place of
    `xl devd`. `stand_in` takes a link's alternative name `vif-D-N` for netback's parent device: for tests and the
    sandbox only.
    """

    mode: Literal["enforce", "observe"] = "enforce"
    control: str = CONTROL
    scripts: tuple[str, ...] = ("vif-xennetd*",)
    hooks: bool = False
    devd: bool = False
    stand_in: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """`[network.NAME]`: what guests are attached to."""

    name: str
    mode: Mode
    bridge: str


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions of a rule; all that are given must hold, and none given holds for every vif.

    Texts are shell-style patterns (fnmatch(3)): `script` of the script's basename, `bridge` of the vif's own `bridge`
    node, `mac` and `uuid` in lower case because they are compared without regard to case.
    """

    vm: str | None = None
    uuid: str | None = None
    mac: str | None = None
    bridge: str | None = None
    script: str | None = None
    type: str | None = None
    devid: int | None = None
    domid: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """`[[policy]]`: either the network that a matching vif is attached to, or why it gets none."""

    name: str
    match: Match
    network: Network | None = None
    deny: str | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """All that the configuration says. The first rule that matches wins; `files` are what it was read from."""

    daemon: DaemonConfig = DaemonConfig()
    networks: Mapping[str, Network] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    files: tuple[str, ...] = ()
