"""Reports to the toolstack, to its hotplug scripts and to the administrator's hooks."""
