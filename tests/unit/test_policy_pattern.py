"""Shell-style patterns: what matches, and what never can."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.config.pattern import MAC_SHAPE, UUID_SHAPE, can_match, matches

SHAPE = ("ab", "ab", ":", "ab")
TEXTS = [a + b + ":" + c for a in "ab" for b in "ab" for c in "ab"]


@given(st.text("ab:*?[]!-", max_size=8))
def test_a_pattern_can_match_exactly_if_it_matches_one_of_all_texts(pattern: str) -> None:
    assert can_match(pattern, SHAPE) == any(fnmatchcase(text, pattern) for text in TEXTS)


@given(st.text("aB*?[]!-\n", max_size=8), st.text("aB\n]", max_size=5))
def test_matching_is_fnmatch_with_case(pattern: str, text: str) -> None:
    assert matches(pattern, text) == fnmatchcase(text, pattern)


@pytest.mark.parametrize("pattern", ["00:16:3e:*", "*", "00:16:3e:0?:[0-3]*", "aa:bb:cc:dd:ee:ff", "*ff", "[!0]*"])
def test_patterns_of_macs(pattern: str) -> None:
    assert can_match(pattern, MAC_SHAPE)


@pytest.mark.parametrize("pattern", ["00-16-3e-*", "00:16:3e", "0016*", "*g*", "", "aa:bb:cc:dd:ee:ff:*", "AA:*"])
def test_patterns_that_are_no_macs(pattern: str) -> None:
    assert not can_match(pattern, MAC_SHAPE)


def test_patterns_of_uuids() -> None:
    uuid = "9f6c12ab-0123-4567-89ab-0123456789ab"
    assert can_match(uuid, UUID_SHAPE)
    assert can_match("9f6c12ab-*", UUID_SHAPE)
    assert not can_match(uuid[:-1], UUID_SHAPE)
    assert not can_match("web-*", UUID_SHAPE)
