"""pyproject.toml asks for what the programs import, no less and no more."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MODULES = {"systemd-python": "systemd", "oxl-libnftables": "nftables"}
"""What a project on PyPI is imported as, where that is not its name."""


def imported() -> set[str]:
    found = set()
    for file in (REPOSITORY / "xennetd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"xennetd"}


def modules(requirements: list[str]) -> set[str]:
    names = [re.split(r"[<>=!~;\[ ]", requirement)[0] for requirement in requirements]
    return {MODULES.get(name, name) for name in names}


def test_the_programs_import_what_pip_installs_and_nftables_where_it_is() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    hard, nft = modules(project["dependencies"]), modules(project["optional-dependencies"]["nft"])
    assert nft == {"nftables"}
    assert imported() == hard | nft
    assert not hard & nft
