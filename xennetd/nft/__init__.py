"""The adapter for xennetd's nftables table, which libnftables reads and writes."""
