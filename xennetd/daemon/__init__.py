"""The daemon."""

import sys
from typing import Any, cast

# structlog imports rich where rich is installed. That costs 60 ms and 6 MiB for a traceback renderer that the daemon
# never uses. This file runs before any module of the daemon is imported, so the import is suppressed here.
if "rich" not in sys.modules:
    cast("dict[str, Any]", sys.modules)["rich"] = None  # makes `import rich` raise ImportError
    try:
        import structlog  # noqa: F401 (only the import itself matters)
    finally:
        del sys.modules["rich"]
