"""What the toolstack, its hotplug scripts and the administrator's hooks are told."""
