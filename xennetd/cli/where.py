"""Where the daemon's control socket is, when the command line does not say."""

from __future__ import annotations

import glob
import re

from xennetd.model.places import CONFIGURATION, CONTROL

_SETTING = re.compile(r"""^[^#\n]*\bcontrol["']?\s*=\s*(["'])(/[^"'\\\n]*)\1""", re.MULTILINE)


def control(configuration: str = CONFIGURATION) -> str:
    """Return `daemon.control` of the configuration, else the default path.

    The line is looked for and nothing parsed: that is quick, and it finds the daemon also while there is an error in
    the configuration, which its `reload` is there to tell.
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
