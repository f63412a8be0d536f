"""A defect of ours that hits one vif: its port is down, its toolstack is told, and nobody else notices."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.bed.guest import Bed
from tests.bed.news import LinkNews
from tests.bed.xenstored import Xenstored
from tests.kernel.conftest import Bystander, MakeGuest
from tests.kernel.defective import Defective
from tests.kernel.verdict import refused

NO_VERDICTS_FOR_WEB = """
from xennetd.daemon.toolstack.reporter import ToolstackReporter
tell = ToolstackReporter.tell
async def defective(self, record, decision, *rest):
    if record.vif.vm == "web" and decision.verdict is not None:
        raise ERROR
    await tell(self, record, decision, *rest)
ToolstackReporter.tell = defective
"""
"""Raises when the port is up already and only the verdict is missing."""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("LookupError('web')", "xennetd met a defect of its own on vif1.0"),
        ("OSError(105, 'No buffer space available')", "the host is short of memory"),
    ],
)
def test_the_port_is_down_for_good_and_only_its_own_guest_is_told(
    bed: Bed, guest: MakeGuest, xenstored: Xenstored, bystander: Bystander, tmp_path: Path, error: str, sentence: str
) -> None:
    xennetd = Defective(xenstored, tmp_path, defect=NO_VERDICTS_FOR_WEB.replace("ERROR", error))
    try:
        xennetd.start()
        bystander.connect()
        web = guest("web")
        assert sentence in refused(bed, web.vif)

        # It does not go up and down with each look at what the last look did.
        time.sleep(0.2)
        with LinkNews(bed.host) as news:
            time.sleep(0.5)
            assert news.of(web.vif.netdev) == []
        link = bed.host.links()[web.vif.netdev]
        assert "UP" not in link["flags"]
        assert "master" not in link
        assert bystander.is_undisturbed()

        # And its end is its end.
        web.destroy()
        later = guest("later")
        later.connect()
        assert {row["vm"] for row in xennetd.ask("list")} == {"bystander", "later"}
    finally:
        xennetd.close()
