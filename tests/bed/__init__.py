"""The test bed: a real xenstored without Xen, real network namespaces, and the parts libxl and netback play.

Nothing here is a mock: xenstored is Debian's own program, the links are the kernel's. Only the hypervisor beneath
xenstored, the toolstack and the netback driver are played, and these exactly as recorded from the real ones.

    xen.py         where Xen's programs are; `Missing` says in one line what this machine lacks
    hypervisor.c   the preloaded library that answers xenstored in the hypervisor's place
    xenstored.py   `Xenstored`: start, stop, kill -9, restart with the contents restored
    xs.py          `Xs`: a small synchronous client for tests
    ring.py        `Ring`, and `DomainSocket`: a unix socket whose clients speak to xenstored as an unprivileged domain

    site.py        `Site`: a host's uplink, its router and an internet behind it
    reach.py       `Place`, `Services`, `matrix`: who reaches whom
    wire.py        `Wire`: what passes a link, and frames to put on it
    state.py       `host_state`: all that the kernel holds of the host's network, to compare
    netns.py       `Host` (the test's own namespaces), `NetNs` (a guest's), taps, bridges with an uplink
    rtnl.py        `Rtnl`: makes links fast
    toolstack.py   `Toolstack`, `VifSpec`, `Vif`: what libxl writes
    netback.py     `Netback`, `Netfront`: what the kernel's drivers write, and the link
    hotplug.py     runs a hotplug script as libxl does
    systemd.py     `Notify` and `Journal`: what xennetd tells systemd and journald
    daemon.py      `Daemon`: xennetd itself, as systemd runs it
    guest.py       `Bed`: all of these together; `Guest`: a domain with one vif, in a line; `crowd`: many

By hand (the kernel lane has fixtures for it, see tests/kernel/conftest.py):

    with Xenstored() as xenstored, contextlib.closing(Host()) as host:
        bed = Bed(xenstored, host)
        host.bridge("xenbr0")
        lan = host.uplink("xenbr0", address="10.0.0.254/24")
        web = Guest(bed, "web", VifSpec(script="vif-bridge"), address="10.0.0.1/24")
        web.online()                    # the stock script, or let xennetd see the vif
        web.connect()
        assert web.ping("10.0.0.254")
        web.destroy()
"""
