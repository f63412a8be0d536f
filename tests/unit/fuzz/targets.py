"""All targets, by name."""

from __future__ import annotations

from tests.unit.fuzz.of_answers import ANSWERS
from tests.unit.fuzz.of_configuration import CONFIGURATION
from tests.unit.fuzz.of_managers import MANAGERS
from tests.unit.fuzz.of_netlink import NETLINK
from tests.unit.fuzz.of_xenstore import XENSTORE

TARGETS = {target.name: target for target in (*XENSTORE, *NETLINK, *CONFIGURATION, *MANAGERS, *ANSWERS)}
