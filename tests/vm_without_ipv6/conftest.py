"""The vm lane once more, in a machine whose kernel has no IPv6 (ipv6.disable=1). See tests/vm/conftest.py."""

from __future__ import annotations

import os

import pytest

from tests.image.remote import Lane

if os.environ.get("XENNETD_INSIDE"):
    from tests.vm.conftest import bed, guest, host, journal, service, xenstored

    __all__ = ["bed", "guest", "host", "journal", "service", "xenstored"]
else:
    _lane = Lane("vm_without_ipv6", xen=False, kernel="ipv6.disable=1")

    def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        return _lane.protocol(item, nextitem)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup() -> None:
        _lane.setup()
