"""What a watch event hints at: one node, a vif, a domain, everything, or nothing of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.model.vif import VifId
from xennetd.xenstore.hints import ALL_NODES, Hints

KNOWN = VifId(7, 0)
words = st.sampled_from(["backend", "vif", "7", "0", "8", "state", "mtu", "hotplug-error", "", "-1", "99999", "@x"])


def hinted(*paths: str) -> Hints:
    hints = Hints()
    for path in paths:
        hints.add(path, {KNOWN})
    return hints


@given(st.one_of(st.text(max_size=30), st.lists(words, max_size=7).map("/".join)))
def test_any_path_is_a_hint_or_ignored(path: str) -> None:
    hints = hinted(path)
    assert bool(hints) == (hints.everything or bool(hints.domains) or bool(hints.vifs))
    assert all(nodes and nodes <= ALL_NODES for nodes in hints.vifs.values())


@pytest.mark.parametrize("path", ["backend/vif", "backend", "/", "@releaseDomain", "/local/domain/0/backend/vif/7"])
def test_the_watched_directory_or_above_is_everything(path: str) -> None:
    assert hinted(path).everything


def test_a_known_vifs_nodes_are_looked_at_alone() -> None:
    assert hinted("backend/vif/7/0/state", "backend/vif/7/0/mtu").vifs == {KNOWN: {"state", "mtu"}}


def test_all_of_a_vif_outweighs_its_nodes() -> None:
    assert hinted("backend/vif/7/0", "backend/vif/7/0/state").vifs == {KNOWN: ALL_NODES}
    assert hinted("backend/vif/7/0/state", "backend/vif/7/0").vifs == {KNOWN: ALL_NODES}


def test_a_vif_not_known_yet_is_looked_at_whole_whatever_was_written() -> None:
    assert hinted("backend/vif/8/0/feature-sg").vifs == {VifId(8, 0): ALL_NODES}


def test_a_domains_directory_is_its_vifs() -> None:
    assert hinted("backend/vif/7").domains == {7}


@pytest.mark.parametrize(
    "path",
    ["backend/vif/x", "backend/vif/07/0", "backend/vif/7/0/feature-sg", "backend/vif/7/0/state/below", "backend/vif/"],
)
def test_what_is_not_ours_to_read_is_ignored(path: str) -> None:
    assert not hinted(path)


@given(st.one_of(st.text(max_size=30), st.lists(words, max_size=7).map("/".join)))
def test_any_path_of_a_name_is_a_domain_or_ignored(path: str) -> None:
    hints = Hints()
    hints.add_name(path)
    assert bool(hints) == bool(hints.renamed)
    assert (hints.everything, hints.gone, hints.domains, hints.vifs) == (False, False, set(), {})


@pytest.mark.parametrize(
    ("path", "domids"),
    [
        ("/local/domain/7/name", {7}),
        ("/local/domain/7", {7}),
        ("/local/domain/7/name/below", set()),
        ("/local/domain", set()),
        ("/", set()),
    ],
)
def test_a_name_is_its_domains(path: str, domids: set[int]) -> None:
    hints = Hints()
    hints.add_name(path)
    assert hints.renamed == domids


def test_the_first_event_about_a_vif_has_its_time() -> None:
    hints = Hints()
    for now, path in enumerate(("7/0/feature-sg", "7/0/state", "8/0/mac", "7/0", "7/0/mtu", "9")):
        hints.add(f"backend/vif/{path}", {KNOWN}, float(now))
    assert hints.heard == {KNOWN: 1.0, VifId(8, 0): 2.0}
