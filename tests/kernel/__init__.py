"""The kernel lane: the real kernel in namespaces, the real xenstored."""
