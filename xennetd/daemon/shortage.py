"""What the host or the daemon was short of: an exception of a system call as an error that names the remedy."""

from __future__ import annotations

import errno
import os

from xennetd.model.errors import HostError

Shortage = (OSError, MemoryError)
"""What Python raises where a system call fails or memory is used up. The cause may be gone soon."""

_MEMORY = "the host is short of memory, or xennetd.service has reached its MemoryMax="

_REMEDIES = {
    errno.EMFILE: "xennetd has too many open files: see LimitNOFILE= of xennetd.service",
    errno.ENFILE: "the host has too many open files: see the sysctl fs.file-max",
    errno.ENOSPC: "a file system is full, or a table of the kernel's",
    errno.EDQUOT: "a quota is used up",
    errno.EROFS: "a file system is read-only",
    errno.ENOMEM: _MEMORY,
    errno.ENOBUFS: _MEMORY,
}
"""What is true of an error number whatever the system call was."""

_OF_FILES = {errno.ENOSPC: "a file system is full", errno.EDQUOT: "a file system's quota is used up"}
"""What is true of it where the call was about a file."""


def shortage(error: BaseException) -> HostError:
    """Return the error that says what is missing, and that xennetd tries again: the caller must do so.

    Its detail names the file.
    """
    if isinstance(error, HostError):
        return error
    number = error.errno or 0 if isinstance(error, OSError) else errno.ENOMEM if isinstance(error, MemoryError) else 0
    file = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    what = (_OF_FILES.get(number) if file else None) or _REMEDIES.get(number)
    what = what or (os.strerror(number) if number else str(error) or type(error).__name__)
    again = "xennetd tries again"
    return HostError(f"the host can't do it now: {what}; {again}", errno=number, detail=f"{what}{file}; {again}")
