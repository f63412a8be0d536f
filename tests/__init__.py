"""Everything that shows xennetd right; `packaging/test` runs it."""
