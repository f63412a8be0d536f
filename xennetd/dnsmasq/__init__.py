"""The adapter for dnsmasq: its files and its processes."""
