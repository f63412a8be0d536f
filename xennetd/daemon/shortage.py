"""What the host or the daemon was short of: an exception of a system call as an error that names the remedy."""

from __future__ import annotations

import errno
import os

from xennetd.model.errors import HostError

Shortage = (OSError, MemoryError)
"""What Python raises where a system call fails or memory is used up. The cause may be gone soon."""

_REMEDIES = {
    errno.EMFILE: "xennetd has too many open files: see LimitNOFILE= of xennetd.service",
    errno.ENFILE: "the host has too many open files: see the sysctl fs.file-max",
    errno.ENOSPC: "a file system is full",
    errno.EDQUOT: "a file system is full",
    errno.EROFS: "a file system is read-only",
    errno.ENOMEM: "the host is short of memory",
    errno.ENOBUFS: "the host is short of memory",
    errno.EAGAIN: "the host can't start another process or thread: see TasksMax= of xennetd.service",
}


def shortage(error: BaseException) -> HostError:
    """Return the error that says what is missing. Its detail names the file."""
    if isinstance(error, HostError):
        return error
    number = error.errno or 0 if isinstance(error, OSError) else errno.ENOMEM if isinstance(error, MemoryError) else 0
    what = _REMEDIES.get(number) or (os.strerror(number) if number else str(error) or type(error).__name__)
    file = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    again = "xennetd tries again"
    return HostError(f"the host can't do it now: {what}; {again}", errno=number, detail=f"{what}{file}; {again}")
