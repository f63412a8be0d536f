"""Values of net.ipv4.conf and net.ipv6.conf, below /proc/sys."""

from __future__ import annotations

import os

from xennetd.model.objects import Sysctl

_NET = "/proc/sys/net"
_LONGEST = 32
"""Bytes of a value and its newline."""


def has_ipv6() -> bool:
    """Return whether the kernel has IPv6. The answer does not change while the kernel runs."""
    return os.path.exists(f"{_NET}/ipv6/conf/all")


def forces_ipv6() -> bool:
    """Return whether the kernel has `force_forwarding`, which forwards IPv6 link by link (Linux 6.17 and later)."""
    return os.path.exists(f"{_NET}/ipv6/conf/all/force_forwarding")


def read_sysctl(version: int, link: str, setting: str) -> int | None:
    """Return the value of net.ipvVERSION.conf.LINK.SETTING, None if the kernel has no such sysctl.

    A link may go away while its sysctl is open: the kernel then refuses the read with ENOENT, as it refuses to open it
    (proc_sys_call_handler(), fs/proc/proc_sysctl.c). Raises OSError other than ENOENT.
    """
    try:
        # Three system calls; a file object takes seven, and the observation of a routed guest reads several values.
        file = os.open(f"{_NET}/ipv{version}/conf/{link}/{setting}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(file, _LONGEST))
        finally:
            os.close(file)
    except FileNotFoundError:
        return None


def write_sysctl(sysctl: Sysctl) -> None:
    """Write the sysctl's value. Raises OSError."""
    file = os.open(f"{_NET}/ipv{sysctl.version}/conf/{sysctl.link}/{sysctl.setting}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, str(sysctl.value).encode())
    finally:
        os.close(file)
