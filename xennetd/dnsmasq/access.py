"""Keeps local users out of /var/lib/xennetd, which has guests' MACs, addresses and names, and lets dnsmasq in.

dnsmasq reads these files after it has become the user dnsmasq. An access control list (acl(5)) lets this one user pass
through the directory; nobody else but root passes, so the modes of what is below do not matter. To set a list takes
the directory's ownership. To give the directory to a group would take CAP_CHOWN, or a group of its own.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import struct
from pathlib import Path

import structlog

_log = structlog.get_logger()

USER = "dnsmasq"
"""The user that dnsmasq becomes (`user=` in its configuration)."""

_ACL = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")  # struct posix_acl_xattr_entry of linux/posix_acl_xattr.h: tag, permissions, id
_NO_ID = 0xFFFFFFFF
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_ALL, _PASS, _NONE = 7, 1, 0

_WITHOUT_LISTS = 0o711
"""The directory's mode where the file system has no access control lists."""


def protect(directory: Path) -> None:
    """Let nobody but root and dnsmasq into a directory. It is no error if it does not exist. Raises OSError.

    On a file system without access control lists everybody may pass, and a warning says so: dnsmasq must serve.
    """
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
        wanted = _access(pwd.getpwnam(USER).pw_uid)
    except FileNotFoundError:
        return
    except KeyError:  # There is no dnsmasq, which would have to get in.
        _change_mode(directory, mode, 0o700)
        return
    try:
        if _current(directory) != wanted:
            os.setxattr(directory, _ACL, wanted)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        if _change_mode(directory, mode, _WITHOUT_LISTS):
            _log.warning(
                "the file system has no access control lists, so local users can read which addresses guests have",
                directory=str(directory),
            )


def _change_mode(directory: Path, mode: int, wanted: int) -> bool:
    if mode != wanted:
        directory.chmod(wanted)
    return mode != wanted


def _current(directory: Path) -> bytes:
    try:
        return os.getxattr(directory, _ACL)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return b""
        raise


def _access(uid: int) -> bytes:
    """Return the list that lets the owner do anything and a user pass. Its mask is the group's part of the mode."""
    entries = (
        (_OWNER, _ALL, _NO_ID),
        (_USER, _PASS, uid),
        (_GROUP, _NONE, _NO_ID),
        (_MASK, _PASS, _NO_ID),
        (_OTHER, _NONE, _NO_ID),
    )
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)
