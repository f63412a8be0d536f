"""Untrusted text made fit for a log, a terminal or a message."""

from __future__ import annotations


def visible(untrusted: str | bytes, limit: int = 80) -> str:
    """Return `untrusted` with everything that is not printable ASCII escaped, cut to `limit` characters.

    The result never holds a newline, an escape character or a quote, so it is safe in a log line and inside quotes.
    """
    if isinstance(untrusted, bytes):
        untrusted = untrusted[: limit + 1].decode("utf-8", "backslashreplace")
    out = "".join(
        c if " " <= c <= "~" and c not in "\\'\"" else c.encode("unicode_escape").decode("ascii") if c > "~" or c < " "
        else "\\" + c
        for c in untrusted[: limit + 1]
    )
    return out if len(out) <= limit and len(untrusted) <= limit else out[: limit - 3] + "..."
