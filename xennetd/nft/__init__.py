"""The adapter of nftables: our table, in libnftables' words."""
