"""Desired minus observed: ordered Steps. Pure, no I/O."""
