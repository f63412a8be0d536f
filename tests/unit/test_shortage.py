"""What is said where the host is short of something: no more than the error tells."""

from __future__ import annotations

import errno
import os

import pytest

from xennetd.daemon.shortage import shortage
from xennetd.model.errors import HostError


def failed(number: int, file: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), file)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (failed(errno.EAGAIN), "Resource temporarily unavailable"),
        (failed(errno.ENOSPC), "a file system is full, or a table of the kernel's"),
        (failed(errno.ENOSPC, "/run/x"), "a file system is full (/run/x)"),
        (failed(errno.EDQUOT), "a quota is used up"),
        (failed(errno.EDQUOT, "/run/x"), "a file system's quota is used up (/run/x)"),
        (failed(errno.EROFS, "/run/x"), "a file system is read-only (/run/x)"),
        (failed(errno.EMFILE), "xennetd has too many open files: see LimitNOFILE= of xennetd.service"),
        (MemoryError(), "the host is short of memory, or xennetd.service has reached its MemoryMax="),
    ],
    ids=str,
)
def test_a_shortage_is_told_as_far_as_it_is_known(error: Exception, said: str) -> None:
    assert shortage(error).detail == f"{said}; xennetd tries again"


def test_an_error_that_says_what_it_is_stays() -> None:
    error = HostError("the bridge is full")
    assert shortage(error) is error
