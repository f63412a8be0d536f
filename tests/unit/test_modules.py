"""The modules of xennetd among themselves: each has a name of its own, and each can be imported first."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import xennetd


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("xennetd", cache_dir=None)


def is_package(graph: grimp.ImportGraph, module: str) -> bool:
    return bool(graph.find_children(module))


def test_no_two_modules_have_one_name(graph: grimp.ImportGraph) -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for module in graph.modules:
        if not is_package(graph, module):
            named[module.rpartition(".")[2]].append(module)
    twice = {name: sorted(modules) for name, modules in named.items() if len(modules) > 1 and name != "main"}
    assert not twice


def test_no_two_modules_define_one_type_name() -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for path in sorted(Path(xennetd.__path__[0]).rglob("*.py")):
        for statement in ast.parse(path.read_text()).body:
            for name in type_names(statement):
                named[name].append(path.name)
    assert not {name: paths for name, paths in named.items() if len(paths) > 1}


def type_names(statement: ast.stmt) -> list[str]:
    """Return the public names of types that a statement defines: a class, or an alias in capitalized words."""
    match statement:
        case ast.ClassDef(name=name):
            names = [name]
        case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper() and not name.isupper():
            names = [name]
        case _:
            names = []
    return [name for name in names if not name.startswith("_")]


def test_no_module_needs_itself_to_be_imported(graph: grimp.ImportGraph) -> None:
    """An import of a module is one of the packages that it is in, too, but for those that the importer is in itself."""
    needs: dict[str, set[str]] = {module: set() for module in graph.modules}
    for module, needed in needs.items():
        around = {module, *packages(module)}
        for imported in graph.find_modules_directly_imported_by(module):
            needed |= {imported, *packages(imported)} - around
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]), pytrace=False)


def packages(module: str) -> set[str]:
    """Return the packages that a module is in."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}
