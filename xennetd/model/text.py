"""Untrusted text, made safe for a log, a terminal or a message."""

from __future__ import annotations

import re

_NOT_IN_LABEL = re.compile(r"[^a-z0-9-]")
_LONGEST_LABEL = 63


def visible(untrusted: str | bytes, limit: int = 80) -> str:
    """Return `untrusted` with every character escaped that is not printable ASCII, cut to `limit` characters.

    The result holds no newline, no escape character and no bare quote, so it is safe in a log line and in quotes.
    """
    if isinstance(untrusted, bytes):
        untrusted = untrusted[: limit + 1].decode("utf-8", "surrogateescape")
    shown = "".join(_visible(character) for character in untrusted[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def dns_label(untrusted: str) -> str | None:
    """Return the DNS label (RFC 1123) that comes next to `untrusted`, None if there is none.

    It is the part before the first dot in lower case, with `-` in the place of every character that no label may have.
    Hyphens at the ends are cut off, and so is what is longer than 63 characters.
    """
    label = _NOT_IN_LABEL.sub("-", untrusted.partition(".")[0].lower()).strip("-")[:_LONGEST_LABEL].rstrip("-")
    return label or None


def _visible(character: str) -> str:
    if character in "\\'\"":
        return "\\" + character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) & 0xFF:02x}"  # a byte that is not UTF-8
    return character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")
