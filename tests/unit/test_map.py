"""xennetd/README.md, the map for developers: every path and every name on it exists, and no package is missing."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import xennetd

PACKAGE = Path(__file__).parents[2] / "xennetd"
MAP = (PACKAGE / "README.md").read_text()

QUOTED = sorted(set(re.findall(r"`([^`\n]+)`", MAP)))
_NAME = re.compile(r"([\w/.]+\.py):([\w.]+)")
_PATH = re.compile(r"[\w@-][\w.@-]*/[\w./@-]*|[\w-]+\.(?:py|toml|md)")
_CLASS = re.compile(r"[A-Z]+[a-z]\w*")

NAMES = [match.groups() for quoted in QUOTED if (match := _NAME.fullmatch(quoted))]
PATHS = sorted({word for quoted in QUOTED for word in quoted.split() if _PATH.fullmatch(word)})
CLASSES = [quoted for quoted in QUOTED if _CLASS.fullmatch(quoted)]
PROGRAMS = [quoted.split()[2] for quoted in QUOTED if quoted.startswith("python -m ")]


def module(file: str) -> ModuleType:
    """Import the module of a file, which is named as the map names it."""
    place = PACKAGE.parent if file.startswith("tests/") else PACKAGE
    assert (place / file).is_file(), f"there is no {file}"
    dotted = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return importlib.import_module(dotted if file.startswith("tests/") else f"xennetd.{dotted}")


def has(owner: object, name: str) -> bool:
    """Whether a module or a class has a name; an object's attribute is known by what its class assigns to it."""
    if hasattr(owner, name) or not inspect.isclass(owner):
        return hasattr(owner, name)
    return re.search(rf"\bself\.{name}\b(: [^=\n]+)? = ", inspect.getsource(owner)) is not None


@cache
def names() -> frozenset[str]:
    """All names that modules of xennetd have."""
    found: set[str] = set()
    for each in pkgutil.walk_packages(xennetd.__path__, "xennetd."):
        found |= vars(importlib.import_module(each.name)).keys()
    return frozenset(found)


def test_the_map_names_files_names_and_programs() -> None:
    """The expressions above find what they are for, and no quotation spans two lines, where they would not see it."""
    assert [line for line in MAP.splitlines() if line.count("`") % 2] == []
    assert len(NAMES) > 100
    assert len(PATHS) > 50
    assert len(CLASSES) > 10
    assert PROGRAMS


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path: str) -> None:
    assert (PACKAGE / path).exists() or (PACKAGE.parent / path).exists()


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_a_name_exists_in_its_file(file: str, name: str) -> None:
    owner: object = module(file)
    *owners, last = name.split(".")
    for each in owners:
        owner = getattr(owner, each)
    assert has(owner, last), f"{file} has no {name}"


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_exists(name: str) -> None:
    assert name in names()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_checkout_exists(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


def test_every_package_is_on_the_map() -> None:
    packages = {f"{file.parent.relative_to(PACKAGE)}/" for file in PACKAGE.glob("*/**/__init__.py")}
    assert packages <= set(PATHS)
