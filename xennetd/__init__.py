"""xennetd: the network daemon of a Xen host."""

__version__ = "0.2.0"
