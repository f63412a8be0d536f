"""`Defective`: xennetd with one defect, to see what it does about it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bed.daemon import STAND_IN, Daemon
from tests.bed.xen import REPOSITORY
from tests.bed.xenstored import Xenstored


class Defective(Daemon):
    """A `Daemon` in whose process the code `defect` runs before its main."""

    def __init__(self, xenstored: Xenstored, directory: Path, config: str = STAND_IN, *, defect: str) -> None:
        super().__init__(xenstored, directory, config)
        self.environment["PYTHONPATH"] = str(REPOSITORY)  # not the program's directory, which Python looks in instead
        self._program = directory / "defective.py"
        self._program.write_text(f"{defect}\nimport sys\nfrom xennetd.daemon.main import main\nsys.exit(main())\n")

    def command(self, module: str) -> list[str]:
        if module == "xennetd.daemon.main":
            return [sys.executable, str(self._program)]
        return super().command(module)
