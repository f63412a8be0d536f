"""What nft prints of our table, and what it may print if the table is not as xennetd made it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest

from xennetd.nft import library
from xennetd.nft.library import SAVED_SYSCTLS, Nft, UnreadableTable, parse_listing


def printing(output: str) -> Nft:
    nft = Nft()
    nft._context = mock.Mock()
    nft._context.cmd.return_value = (0, output, "")
    return nft


def saved(*elements: Any) -> dict[str, Any]:
    return {"map": {"name": SAVED_SYSCTLS, "type": ["mark", "mark"], "map": "mark", "elem": list(elements)}}


@pytest.mark.parametrize("output", ["", "{", '{"nftables": 7}', "[" * 5000, '{"nftables": ' + '{"a":' * 5000])
def test_what_is_no_listing_is_an_unreadable_table(output: str) -> None:
    with pytest.raises(UnreadableTable):
        printing(output).read()


def test_a_remembered_value_is_read() -> None:
    listing = printing(json.dumps({"nftables": [saved([{"concat": [2, 1024]}, 0])]})).read()
    assert not listing.unreadable
    assert listing.sets[SAVED_SYSCTLS] == {("2", "1024"): ("0",)}


@pytest.mark.parametrize(
    "element",
    [
        [7, 0],
        {"concat": [2, 1024]},
        [{"concat": [2, 1024]}, {"concat": [0, 1]}],
        [{"concat": [2, 1024, 3]}, 0],
        [{"concat": [2, "eth0"]}, 0],
        [{"concat": [2, 1024]}, "0x1"],
        [{"concat": [2, 1024]}, 1.5],
    ],
)
def test_an_element_that_xennetd_can_t_have_made_makes_the_table_unreadable(element: Any) -> None:
    assert parse_listing([saved(element)]).unreadable


@pytest.mark.parametrize("outcome", [(1, "", "Error: No such file"), UnicodeDecodeError("utf-8", b"", 0, 1, "")])
def test_a_context_in_which_a_command_failed_is_not_used_again(outcome: Any) -> None:
    nft, contexts = Nft(), [mock.Mock(), mock.Mock()]
    contexts[0].cmd.side_effect = [(0, "", ""), outcome]
    contexts[1].cmd.return_value = (0, "", "")
    with mock.patch.object(library, "_new_context", side_effect=contexts):
        assert nft.commit("add table inet xennetd") == ""
        with suppress(ValueError):
            assert nft.commit("add table inet xennetd") == "Error: No such file"
        assert nft.commit("add table inet xennetd") == ""
        assert nft.commit("add table inet xennetd") == ""
    assert [context.cmd.call_count for context in contexts] == [2, 2]
