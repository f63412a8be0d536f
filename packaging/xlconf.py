"""Switches `vif.default.script` of xl.conf(5) to xennetd and back again, changing nothing else in the file.

Rule 1: `switch_back(switch(text))` is `text`, byte for byte, whatever the file held; None stands for no file.
Rule 2: what was edited between the two stays, and an edit of our own line is refused, not guessed at.

xl lets the last assignment win, so ours goes to the very end and no line above it is touched. It is a line of its own
below a comment line, since xl takes neither a comment nor a carriage return at the very end of a file.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

SETTING = 'vif.default.script="vif-xennetd"'
MARK = "# xennetd: packaging/run --switch wrote the next line; packaging/run --switch-back takes both away"
MARK_NEW = MARK + " (and this file)"

_ASSIGNMENT = re.compile(r"""(?:^|;)[ \t]*vif\.default\.script[ \t]*=[ \t]*(?:"([^"]*)"|'([^']*)')""")
_PROGRAM = "packaging/run"


class Refused(Exception):
    """The file can't be changed without guessing; the text says why."""


def script(text: str | None) -> str | None:
    """Return the script that xl runs by default with this xl.conf, None where the file does not say."""
    found = None
    for line in (text or "").split("\n"):
        for match in _ASSIGNMENT.finditer(line.partition("#")[0]):
            found = match[1] if match[1] is not None else match[2]
    return found


def switched(text: str | None) -> bool:
    """Return whether `switch` has changed this text."""
    return any(line in (MARK, MARK_NEW) for line in (text or "").split("\n"))


def switch(text: str | None) -> str:
    """Return xl.conf's new text."""
    if text is None:
        return f"{MARK_NEW}\n{SETTING}\n"
    if switched(text):
        _find(text.split("\n"))
        return text
    if text == "" or text.endswith("\n"):
        return f"{text}{MARK}\n{SETTING}\n"
    # The missing newline at the end is how `switch_back` knows that there was none.
    return f"{text}\n{MARK}\n{SETTING}"


def switch_back(text: str | None) -> str | None:
    """Return xl.conf's text without what `switch` added, None if the file was not there before."""
    if text is None or not switched(text):
        return text
    lines = text.split("\n")
    at = _find(lines)
    created = lines[at] == MARK_NEW
    del lines[at : at + 2]
    rest = "\n".join(lines)
    return None if created and rest == "" else rest


def _find(lines: list[str]) -> int:
    """Return where our two lines begin."""
    marks = [number for number, line in enumerate(lines) if line in (MARK, MARK_NEW)]
    if len(marks) > 1:
        raise Refused(f"line {marks[1] + 1} repeats line {marks[0] + 1}: remove one of the two, with the line below it")
    at = marks[0]
    if lines[at + 1 : at + 2] != [SETTING]:
        raise Refused(f"line {at + 2} was changed since (it was {SETTING}): remove line {at + 1} to keep it as it is")
    return at


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    """Replace the file as one act, keeping its owner and mode; a symbolic link stays one."""
    path = path.resolve()
    fresh = path.with_name(f".{path.name}.xennetd")
    fresh.write_bytes(text.encode("utf-8", "surrogateescape"))
    if path.exists():
        was = path.stat()
        os.chown(fresh, was.st_uid, was.st_gid)
        fresh.chmod(was.st_mode & 0o7777)
    else:
        fresh.chmod(0o644)
    fresh.replace(path)


def _switch(path: Path, backup: Path) -> str:
    text = _read(path)
    if not switched(text) and script(text) == "vif-xennetd":
        return f"{path} names vif-xennetd already; nothing was changed"
    new = switch(text)
    if new == text:
        return f"{path} was switched already; nothing was changed"
    if text is not None:
        _write(backup, text)
    _write(path, new)
    kept = f" (as it was: {backup})" if text is not None else ""
    return f"{path} now says {SETTING}{kept}; guests use it from their next xl create, undo: {_PROGRAM} --switch-back"


def _switch_back(path: Path, backup: Path) -> str:
    text = _read(path)
    new = switch_back(text)
    if new == text:
        if script(text) == "vif-xennetd":
            raise Refused(f'"vif-xennetd" is there, but was not written by {_PROGRAM} --switch: change it by hand')
        return f"{path} was not switched; nothing was changed"
    if new is None:
        path.unlink()
        return f"{path} is gone again, as before"
    _write(path, new)
    if _read(backup) == new:
        backup.unlink()
        return f"{path} is as it was before --switch, byte for byte"
    return f"{path} is as before --switch, with what was edited since"


def main(arguments: list[str]) -> int:
    """`xlconf.py switch|switch-back|names-ours XL_CONF`; says what it did. Returns the exit status."""
    if len(arguments) != 2 or arguments[0] not in ("switch", "switch-back", "names-ours"):
        print("usage: xlconf.py switch|switch-back|names-ours XL_CONF", file=sys.stderr)
        return 2
    path = Path(arguments[1])
    backup = path.with_name(f"{path.name}.before-xennetd")
    try:
        if arguments[0] == "names-ours":
            return 0 if (script(_read(path)) or "").startswith("vif-xennetd") else 1
        print((_switch if arguments[0] == "switch" else _switch_back)(path, backup))
    except (Refused, OSError) as problem:
        print(f"{path}: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
