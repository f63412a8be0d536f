"""What all lanes share."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def few_objects_to_examine() -> None:
    """Keep what pytest has loaded from the garbage collector, as the daemon does with what it has loaded.

    A collection may run in the middle of what a test measures. With thousands of loaded tests it takes 200 ms.
    """
    gc.collect()
    gc.freeze()
