"""Compares desired with observed state and returns ordered Steps. Pure, no I/O."""
