"""The daemon: reconciler, toolstack handshake, control server, audit, supervision, wiring."""
