"""The daemon's log: structlog, with the journal (or a person's terminal) as its last processor.

The daemon's main calls `configure()` once. structlog.get_logger() may be called before that, at import time too.
Loggers are not cached (structlog's `cache_logger_on_first_use`): a logger looks up its class at each call, so that
`toggle_debug` changes all loggers at once. A debug message that is not logged costs 3 microseconds.
Messages are sentences. Values become journal fields: `bridge="xenbr0"` becomes `XENNET_BRIDGE=xenbr0`. The caller makes
text from guests visible() before it logs it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import structlog

from xennetd.daemon.observability.journal import DEBUG, ERR, INFO, WARNING, Journal, Stderr
from xennetd.model.text import visible

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    EventDict = MutableMapping[str, Any]

_log = structlog.get_logger()

_LOGGERS = {
    False: structlog.make_filtering_bound_logger(logging.INFO),
    True: structlog.make_filtering_bound_logger(logging.DEBUG),
}
"""structlog's logger classes, by whether debug messages are logged."""

_PRIORITIES = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERR, "exception": ERR, "critical": ERR}
_NOT_FIELD = re.compile(r"[^A-Z0-9_]")


def configure(journal: Journal, *, debug: bool = False) -> None:
    """Send messages to the journal or, if the daemon was started by hand, to the terminal. `debug` logs debug too."""
    by_hand = "JOURNAL_STREAM" not in os.environ and os.isatty(2)
    deliver = _ToTerminal(Stderr()) if by_hand else _ToJournal(journal)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, deliver],
        wrapper_class=_LOGGERS[debug],
    )
    # asyncio and the libraries use the standard logging. Without this handler it would print, and printing may block.
    libraries = _FromLogging(journal)
    libraries.setFormatter(logging.Formatter())
    logging.basicConfig(handlers=[libraries], level=logging.WARNING, force=True)


def toggle_debug() -> None:
    """Switch debug messages on or, if they are logged already, off. The change itself is logged."""
    debug = structlog.get_config()["wrapper_class"] is not _LOGGERS[True]
    structlog.configure(wrapper_class=_LOGGERS[debug])
    _log.info("debug messages are logged from now on" if debug else "debug messages are no longer logged")


class _ToJournal:
    """The last processor of a service: sends an event's dict to the journal as an entry."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        fields: dict[str, str | int] = {
            "MESSAGE": str(event.pop("event", "")),
            "PRIORITY": _PRIORITIES.get(method, INFO),
        }
        trace = _traceback(event.pop("exc_info", None))
        if trace:
            fields["EXCEPTION_TEXT"] = trace
        for key, value in event.items():
            if value is not None:
                fields[_field(key)] = str(value)
        self._journal.send(fields)
        raise structlog.DropEvent


class _ToTerminal:
    """The last processor of a daemon that was started by hand: writes a line to the terminal."""

    def __init__(self, stderr: Stderr) -> None:
        self._stderr = stderr

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        message = visible(str(event.pop("event", "")), 2000)
        trace = _traceback(event.pop("exc_info", None))
        values = "".join(f"  {key}={visible(str(value), 500)}" for key, value in event.items() if value is not None)
        text = f"{time.strftime('%H:%M:%S')} {method:<8} {message}{values}\n{trace}"
        self._stderr.write(text.encode("utf-8", "backslashreplace"))
        raise structlog.DropEvent


class _FromLogging(logging.Handler):
    """Sends messages of libraries to the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message. Messages below ERROR have the priority WARNING."""
        try:
            priority = ERR if record.levelno >= logging.ERROR else WARNING
            self._journal.send({"MESSAGE": self.format(record), "PRIORITY": priority, "XENNET_LOGGER": record.name})
        except Exception:  # A library's log call with wrong arguments must not fail the library's work.
            self.handleError(record)


@lru_cache(maxsize=256)
def _field(key: str) -> str:
    return "XENNET_" + _NOT_FIELD.sub("_", key.upper())[:56]


def _traceback(exc_info: Any) -> str:
    if not exc_info:
        return ""
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    return "".join(traceback.format_exception(error)) if error is not None else ""
