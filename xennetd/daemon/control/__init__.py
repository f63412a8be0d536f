"""The control service: the Varlink interface and the socket that serves it."""
