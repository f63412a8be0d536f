"""Untrusted text made fit for a log, a terminal or a message."""

from __future__ import annotations

import re

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def visible(untrusted: str | bytes, limit: int = 80) -> str:
    """Return `untrusted` with all that is not printable ASCII escaped, cut to `limit` characters.

    The result never holds a newline, an escape character or a bare quote, so it is safe in a log line and in quotes.
    """
    if isinstance(untrusted, bytes):
        untrusted = untrusted[: limit + 1].decode("utf-8", "surrogateescape")
    shown = "".join(_visible(character) for character in untrusted[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def dns_label(untrusted: str) -> str | None:
    """Return the DNS label (RFC 1123) that `untrusted` is, in lower case, None if it is none."""
    return untrusted.lower() if _LABEL.fullmatch(untrusted) else None


def _visible(character: str) -> str:
    if character in "\\'\"":
        return "\\" + character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) & 0xFF:02x}"  # a byte that is not UTF-8
    return character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
