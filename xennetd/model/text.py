"""Untrusted text, made safe for a log, a terminal or a message."""

from __future__ import annotations

import re

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def visible(untrusted: str | bytes, limit: int = 80) -> str:
    """Return `untrusted` with every character escaped that is not printable ASCII, cut to `limit` characters.

    The result holds no newline, no escape character and no bare quote, so it is safe in a log line and in quotes.
    """
    if isinstance(untrusted, bytes):
        untrusted = untrusted[: limit + 1].decode("utf-8", "surrogateescape")
    shown = "".join(_visible(character) for character in untrusted[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def dns_label(untrusted: str) -> str | None:
    """Return `untrusted` in lower case if it is a DNS label (RFC 1123), else None."""
    return untrusted.lower() if _LABEL.fullmatch(untrusted) else None


def _visible(character: str) -> str:
    if character in "\\'\"":
        return "\\" + character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) & 0xFF:02x}"  # a byte that is not UTF-8
    return character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
