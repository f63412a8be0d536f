"""Settings of Hypothesis for all properties."""

from __future__ import annotations

from hypothesis import settings

# The properties say what is right, not how fast: on a busy machine any example may take longer than 200 ms.
settings.register_profile("xennetd", deadline=None)
settings.load_profile("xennetd")
