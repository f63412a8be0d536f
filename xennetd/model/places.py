"""Where xennetd is found on a host: the paths that the daemon, xennetctl and the hotplug script agree on."""

from __future__ import annotations

CONFIGURATION = "/etc/xennetd"
"""The directory of xennetd.toml and of conf.d/*.toml."""

RUNTIME = "/run/xennetd"
"""That this directory is there tells the hotplug script (conf/vif-xennetd has its path too) of a daemon to wait for."""

CONTROL = f"{RUNTIME}/control"
"""The control socket, unless `daemon.control` names another path."""

STATE = "/var/lib/xennetd"
"""What outlives a reboot: a directory for each network that has a dnsmasq."""
