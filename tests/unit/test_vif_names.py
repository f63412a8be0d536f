"""The names of vifs."""

from __future__ import annotations

import pytest

from xennetd.model.vif import VifId


def test_a_vifs_name() -> None:
    assert VifId.parse("vif7.10") == VifId(7, 10)


@pytest.mark.parametrize(
    "name", ["vif07.0", "vif7", "vif7.0\n", "vif32752.0", "vif7.0-emu", "vif\u0667.0", "vif7.1\u0660"]
)
def test_a_name_of_no_vif(name: str) -> None:
    assert VifId.parse(name) is None
