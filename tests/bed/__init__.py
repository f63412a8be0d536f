"""The test bed: a real xenstored without Xen, real network namespaces, and the parts libxl and netback play.

Nothing here is a mock: xenstored is Debian's own program, the links are the kernel's. Only the hypervisor beneath
xenstored, the toolstack and the netback driver are played, and these exactly as recorded from the real ones.

    xen.py         where Xen's programs are; `Missing` says in one line what this machine lacks
    hypervisor.c   the preloaded library that answers xenstored in the hypervisor's place
    xenstored.py   `Xenstored`: start, stop, kill -9, restart with the contents restored
    xs.py          `Xs`: a small synchronous client for tests
    ring.py        `Ring`, and `DomainSocket`: a unix socket whose clients speak to xenstored as an unprivileged domain
"""
