"""The unit lane: what is pure."""
