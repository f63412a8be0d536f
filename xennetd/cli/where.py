"""Finds the daemon's control socket when the command line does not name it."""

from __future__ import annotations

import glob
import re

from xennetd.model.places import CONFIGURATION, CONTROL

_SETTING = re.compile(r"""^[^#\n]*\bcontrol["']?\s*=\s*(["'])(/[^"'\\\n]*)\1""", re.MULTILINE)


def control(configuration: str = CONFIGURATION) -> str:
    """Return `daemon.control` of the configuration, else the default path.

    A pattern finds the line; nothing is parsed. That is quick. It also finds the daemon while the configuration has
    an error, which `xennetctl reload` must be able to report.
    """
    for path in (f"{configuration}/xennetd.toml", *sorted(glob.glob(f"{configuration}/conf.d/*.toml"))):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                setting = _SETTING.search(file.read())
        except OSError:
            continue
        if setting:
            return setting[2]
    return CONTROL
