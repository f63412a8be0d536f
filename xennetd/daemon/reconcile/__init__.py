"""Brings the host and its vifs to the state that the policy wants."""
