"""The daemon."""

import sys
from typing import Any, cast

# structlog imports rich when it is installed: 60 ms and 6 MiB for a traceback renderer that is never used here. This
# runs before any module of the daemon is imported, whichever comes first.
if "rich" not in sys.modules:
    cast("dict[str, Any]", sys.modules)["rich"] = None
    try:
        import structlog  # noqa: F401 (the import is all)
    finally:
        del sys.modules["rich"]
