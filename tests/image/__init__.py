"""An emulated Debian host for the lanes that namespaces can't play: a real kernel with systemd, and a real Xen host.

    host.py       what this machine must have, and where its apt gets Debian from
    base.py       `base()`: the disk with Debian, kernel and Xen; made once for a suite (customise.sh runs inside)
    layer.py      `layer()`: the second disk: xennetd as packaging/install puts it; made anew when it changes
    __main__.py   `python -m tests.image` makes both, for lanes to come
    machine.py    `Machine`: qemu with these disks; its console, journal and commands
    agent.py      runs in the machine and executes what comes down the virtio-serial port
    remote.py     runs a lane's tests with pytest in the machine and reports each here as if it had run here
    journal.py    for tests in the machine: the journal from a moment on
    reporter.py   the pytest plugin in the machine that sends the reports

Everything is emulated (TCG), for Xen's sake and because build machines have no KVM. XENNETD_SUITE=bookworm chooses
Debian 12; the default is trixie, Debian 13. XENNETD_MACHINE=SOCKET uses a machine that tests/xenhost has booted.
"""
