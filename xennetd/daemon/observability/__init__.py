"""Reports to people: the audit trail, the journal, the log, systemd's status."""
