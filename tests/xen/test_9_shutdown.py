"""The host as it goes down. These tests run outside the machine: they switch it off and read its journal."""

from __future__ import annotations


def position(journal: str, sentence: str) -> int:
    """Return where the journal says something for the last time."""
    found = journal.rfind(sentence)
    assert found >= 0, f"the journal does not say {sentence!r}"
    return found


def test_guests_stop_before_the_daemon(journal_to_the_end: str) -> None:
    journal = journal_to_the_end
    guests_gone = position(journal, "Stopped xendomains.service")
    daemon_stopping = position(journal, "Stopping xennetd.service")
    assert guests_gone < daemon_stopping
    assert position(journal, "of boot detached from xenbr0") < guests_gone


def test_stopping_leaves_the_network_as_it_is(journal_to_the_end: str) -> None:
    assert "stopped; the network stays as it is" in journal_to_the_end
