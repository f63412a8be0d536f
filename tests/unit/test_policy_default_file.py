"""conf/xennetd.toml, the file that is installed: says nothing as it stands, and says the truth."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from xennetd.config.schema import DAEMON, FORWARD, MATCH, RULE
from xennetd.config.topology_schema import SECTIONS as TOPOLOGY
from xennetd.model.configuration import DaemonConfig, Match, Policy
from xennetd.policy.check import check
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.load import load
from xennetd.policy.modes import MODES, keys_of

TEXT = (Path(__file__).parents[2] / "conf/xennetd.toml").read_text()
UNCOMMENTED = re.sub(r"^#(?=[^ #\n])", "", TEXT, flags=re.MULTILINE)


def test_the_installed_file_equals_no_file() -> None:
    assert tomllib.loads(TEXT) == {}
    assert load([("xennetd.toml", TEXT.encode())]) == Policy(files=("xennetd.toml",))


def test_every_example_is_valid_and_every_default_is_true() -> None:
    policy = load([("xennetd.toml", UNCOMMENTED.encode())])
    assert isinstance(policy, Policy), [problem.describe() for problem in policy]
    assert policy.daemon == DaemonConfig()
    assert [rule.name for rule in policy.rules] == ["web tier", *(f"policy {i}" for i in range(2, 6))]
    assert policy.networks["lab"].bridge == "xn-lab"
    assert policy.networks["lab"].domain == "lab.internal"
    assert check(policy, HostNotes()) == ()


def test_every_key_is_explained() -> None:
    data = tomllib.loads(UNCOMMENTED)
    assert data["daemon"].keys() == DAEMON.keys() == {field.name for field in fields(DaemonConfig)}
    assert {key for network in data["network"].values() for key in network} == {"mode", *keys_of()}
    assert {network["mode"] for network in data["network"].values()} == set(MODES)
    assert {key for forward in data["network"]["lab"]["forward"] for key in forward} == FORWARD.keys()
    assert {key for rule in data["policy"] for key in rule} == RULE.keys()
    links = {kind: {key for link in data[kind].values() for key in link} for kind in TOPOLOGY}
    assert {key for keys in links.values() for key in keys} == {key for keys in TOPOLOGY.values() for key in keys}
    common = {"mac", "mtu", "addresses", "ports"}
    assert all(keys >= TOPOLOGY[kind].keys() - common for kind, keys in links.items())
    assert MATCH.keys() == {field.name for field in fields(Match)}
    assert all(re.search(rf"^#   {key} +\S", TEXT, re.MULTILINE) for key in MATCH)


def test_no_line_is_too_long_to_read() -> None:
    assert max(map(len, TEXT.splitlines())) <= 120
