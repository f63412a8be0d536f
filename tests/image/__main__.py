"""Makes a suite's image ahead of the lanes that need it: `python -m tests.image [SUITE]`."""

from __future__ import annotations

import sys

from tests.image import host
from tests.image.base import base
from tests.image.layer import layer
from tests.image.suite import suite

CANNOT = 77
"""The exit status where this machine can't make images, as automake(1) has it for skipped tests."""


def main(arguments: list[str]) -> int:
    try:
        host.require()
        wanted = suite(*arguments)
        with host.locked(wanted.name):
            layer(base(wanted))
    except host.Missing as missing:
        print(f"no image can be made here, and vm and xen are not run: {missing}", file=sys.stderr)
        return CANNOT
    except host.ImageError as problem:
        print(f"no image: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
