"""The adapter of dnsmasq: its files, and its processes."""
