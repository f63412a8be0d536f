"""The paths that the daemon, xennetctl and the hotplug script agree on."""

from __future__ import annotations

CONFIGURATION = "/etc/xennetd"
"""The directory of xennetd.toml and of conf.d/*.toml."""

RUNTIME = "/run/xennetd"
"""While this directory exists, the hotplug script waits for the daemon. conf/vif-xennetd repeats the path."""

CONTROL = f"{RUNTIME}/control"
"""The control socket, unless `daemon.control` names another path."""

STATE = "/var/lib/xennetd"
"""The files that outlive a reboot: a directory for each network that has a dnsmasq."""
