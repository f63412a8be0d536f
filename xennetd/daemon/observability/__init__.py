"""What people are told: the audit trail, the journal, the log, systemd's status."""
