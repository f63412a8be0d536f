"""What xennetd does for each file of conf/examples, from an empty host and after each change, is as it was reviewed.

`python -m tests.golden` writes the texts anew where a change of what is done is meant.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

import pytest

from tests.golden.change import paths_of
from tests.golden.changes import CHANGES
from tests.golden.examples import DIRECTORY as CONFIGURATIONS
from tests.golden.examples import EXAMPLES, Example, policy_of
from tests.golden.plans import DIRECTORY, GOLDENS, play_changes, play_start

each_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])


@pytest.mark.parametrize("file", GOLDENS, ids=[file.name for file in GOLDENS])
def test_what_is_done_is_what_was_reviewed(file: Path) -> None:
    golden = file.read_text() if file.exists() else ""
    now = GOLDENS[file]()
    if golden != now:
        lines = difflib.unified_diff(golden.splitlines(), now.splitlines(), file.name, "now", lineterm="")
        pytest.fail("\n".join([*lines, "", "If that is meant: python -m tests.golden"]), pytrace=False)


def test_every_example_has_its_texts_and_there_are_no_others() -> None:
    assert {example.name for example in EXAMPLES} == {
        file.stem for file in CONFIGURATIONS.iterdir() if not file.stem.startswith("topology-")
    }
    assert set(DIRECTORY.glob("*.txt")) == GOLDENS.keys()


@each_example
def test_there_is_a_guest_for_each_policy(example: Example) -> None:
    assert {rule.name for rule in policy_of(example.text).rules} <= {guest.policy for guest in example.guests}


@each_example
def test_every_key_is_changed(example: Example) -> None:
    changed = {path for change in CHANGES[example] for path in change.paths}
    assert set(paths_of(tomllib.loads(example.text))) <= changed


@each_example
def test_nothing_is_left_to_do_once_an_example_is_in_force(example: Example) -> None:
    _, wrong = play_start(example)
    assert wrong == ()


@each_example
def test_a_change_breaks_no_rule(example: Example) -> None:
    """`tests.golden.rules` has the rules."""
    _, wrong = play_changes(example)
    broken: list[str] = []
    for change in CHANGES[example]:
        if sentences := wrong[change.title]:
            broken += [f"== {change.title}", *(f"     {sentence}" for sentence in sentences)]
    if broken:
        pytest.fail("\n".join(broken), pytrace=False)
