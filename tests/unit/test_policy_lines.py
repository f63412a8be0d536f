"""Where keys stand in a TOML document: right for every document tomllib accepts."""

import tomllib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xennetd.config.lines import KeyPath, find_lines

KEYS = st.one_of(st.sampled_from(["a", "b-c", "7", "vm_1"]), st.text(max_size=4))
SCALARS = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(["true", "1.5", "1979-05-27 07:32:00", "1979-05-27", '""', "''", "'#]'", '"]\\"}#"']),
    st.sampled_from(['"""\n[a]\n\\" "" ]"""', '"""a"""""', '""""""', '"""\\\n  c"""', '"""\\""""']),
    st.sampled_from(["'''\n# x = '' 1'''", "'''b'''''", "''''''"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=5,
)
BODY = st.dictionaries(KEYS, VALUES, max_size=4)


def spelled(key: str) -> str:
    """Return `key` as TOML may have it, escaped where it must be."""
    if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key):
        return key
    return '"' + "".join(f"\\U{ord(c):08x}" for c in key) + '"'


@dataclass
class Writer:
    """Writes a document in one of its many spellings and notes the line of every key."""

    draw: Any
    text: str = ""
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def filling(self) -> None:
        self.text += self.draw(st.sampled_from(["", " ", "\t", "\n", " # ]},\n", "\r\n  "]))

    def value(self, path: KeyPath, value: Any) -> None:
        if isinstance(value, str):
            self.text += value
        elif isinstance(value, list):
            self.text += "["
            for i, item in enumerate(value):
                self.filling()
                self.note((*path, i))
                self.value((*path, i), item)
                self.filling()
                self.text += ","
            self.filling()
            self.text += "]"
        else:
            self.text += "{"
            for i, (key, item) in enumerate(value.items()):
                self.text += " , " if i else " "
                self.assignment(path, key, item)
            self.text += " }"

    def assignment(self, path: KeyPath, key: str, value: Any) -> None:
        self.note((*path, key))
        self.text += spelled(key)
        while isinstance(value, dict) and len(value) == 1 and self.draw(st.booleans()):
            path = (*path, key)
            (key, value) = next(iter(value.items()))
            self.note((*path, key))
            self.text += self.draw(st.sampled_from([".", " . "])) + spelled(key)
        self.text += self.draw(st.sampled_from(["=", " = "]))
        self.value((*path, key), value)

    def body(self, path: KeyPath, body: dict[str, Any]) -> None:
        for key, value in body.items():
            self.text += self.draw(st.sampled_from(["", "\n", "  ", "# a = [\n"]))
            self.assignment(path, key, value)
            self.text += self.draw(st.sampled_from(["\n", " # b\n", "\r\n"]))

    def header(self, path: KeyPath, template: str) -> None:
        name = ".".join(spelled(part) for part in path if isinstance(part, str))
        for end in range(1, len(path) + 1):
            self.note(path[:end])
        self.text += template.format(name) + self.draw(st.sampled_from(["\n", " # c\n", "\n\n"]))


@given(st.data(), BODY, BODY, st.lists(st.tuples(BODY, BODY), max_size=3))
def test_each_key_stands_where_it_was_written(
    data: st.DataObject, top: dict[str, Any], table: dict[str, Any], tables: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    writer = Writer(data.draw)
    writer.body((), {key: value for key, value in top.items() if key not in ("t", "p")})
    writer.header(("t", "u"), "[ {} ]")
    writer.body(("t", "u"), table)
    for i, (body, sub) in enumerate(tables):
        writer.header(("p", i), "[[ {} ]]")
        writer.body(("p", i), {key: value for key, value in body.items() if key != "s"})
        writer.header(("p", i, "s"), "[{}]")
        writer.body(("p", i, "s"), sub)
    tomllib.loads(writer.text)
    assert find_lines(writer.text) == writer.lines


def paths(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Return the path of everything in `value`."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path} - {()} | {deeper for key, item in items for deeper in paths(item, (*path, key))}


STATEMENTS = st.sampled_from(
    [
        *("[a]", "[a.b]", "[[a]]", "[[a.b]]", "[a.b.c]", "[[ 'a' . \"b\\u0063\" ]]"),
        *("[c]", "[c.d]", "[[c.d]]", "[[c.d.e]]", "#", ""),
        *("a = 1", "b.c = 2", "b.d = {}", "x = [[1], [{y = [ ]}],\n]", "d.e = {f.g = 1, h = 'i'}", "e = '''\n'''"),
        *('"" = 1', "'#' = 1 # = 2", "z = [\n# ]\n1,\n\n2]", 'w = """\n"x = 1" \\"""" ""'),
    ]
)


@given(st.lists(STATEMENTS, max_size=8))
def test_every_key_that_tomllib_reads_has_a_line(statements: list[str]) -> None:
    text = "\n".join(statements)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = find_lines(text)
    assert lines.keys() == paths(data)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def test_a_table_stands_at_its_header_even_if_a_part_of_it_came_first() -> None:
    assert find_lines("[a.b]\nc = 1\n\n[a]\nd = 2\n")[("a",)] == 4


def test_what_tomllib_can_nest_does_not_overflow() -> None:
    depth = 200
    text = "a = " + "[" * depth + "]" * depth
    tomllib.loads(text)
    assert find_lines(text)[("a", *(0,) * (depth - 1))] == 1
