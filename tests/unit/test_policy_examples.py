"""conf/examples and the README's: each is a whole configuration that can be put into force as it stands."""

import re
from pathlib import Path

import pytest

from xennetd.model.configuration import Policy
from xennetd.policy.check import check
from xennetd.policy.files import read_files
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.load import load
from xennetd.policy.modes import MODES

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted((REPOSITORY / "conf/examples").iterdir())


def loaded(path: Path) -> Policy:
    policy = read_files(str(path)).load()
    assert isinstance(policy, Policy), [problem.describe() for problem in policy]
    return policy


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid_and_nothing_need_be_said_of_it(path: Path) -> None:
    assert check(loaded(path), HostNotes()) == ()
    text = path.read_text()
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120


def test_there_is_one_for_each_mode() -> None:
    shown = {network.mode.name for path in EXAMPLES for network in loaded(path).networks.values()}
    assert shown == set(MODES)
    assert {f"{mode}.toml" for mode in MODES} <= {path.name for path in EXAMPLES}


def test_what_the_readme_shows_is_valid() -> None:
    section = (REPOSITORY / "README.md").read_text().partition("\n## Configuration\n")[2].partition("\n## ")[0]
    shown = re.findall(r"^    (?:.+\n|\n(?=    ))+", section, re.MULTILINE)
    text = "".join(block for block in shown if block.lstrip().startswith("["))
    policy = load([("README.md", text.encode())])
    assert isinstance(policy, Policy), [problem.describe() for problem in policy]
    assert {network.mode.name for network in policy.networks.values()} == set(MODES)
    assert len(policy.rules) == 3
