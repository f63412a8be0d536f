"""Brings the host and its vifs to what policy says of them."""
