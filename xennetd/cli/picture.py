"""The host's topology as a tree for a terminal, and as a graph for dot(1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xennetd.cli.host_graph import HostGraph, Node, Tree
from xennetd.cli.spans import GAP, Line, cells, printable

_WIDEST = 24
"""Cells. A longer name of a domain moves what follows it, and does not move what is in other lines."""

_COLOURS = {"good": "#1a7f37", "waiting": "#9a6700", "bad": "#cf222e", "aside": "#656d76"}


@dataclass(frozen=True, slots=True)
class _Row:
    """A node, the lines that lead to it, and the names of links on it that are shown under another node."""

    branch: str
    node: Node
    elsewhere: tuple[str, ...] = ()


def tree(graph: HostGraph) -> list[Line]:
    """Return the tree: NICs, what is built on them, and the guests. What several NICs carry is shown once.

    The ports of a bond are in a bracket with the bond.
    """
    rows = list(_rows(graph))
    unattached = graph.unattached()
    lost = [_Row(_branch(key == unattached[-1]), graph.nodes[key]) for key in unattached]
    names = max((cells(row.branch) + cells(row.node.name) for row in (*rows, *lost)), default=0)
    titles = max((size for row in (*rows, *lost) if (size := cells(_title(row.node))) <= _WIDEST), default=0)
    lines = [_line(row, names, titles) for row in rows]
    return [*lines, [("no bridge", "head")], *(_line(row, names, titles) for row in lost)] if lost else lines


def _rows(graph: HostGraph) -> Iterator[_Row]:
    for tree in graph.trees():
        for root in tree.roots:
            bracket = "" if len(tree.roots) == 1 else "┌─ " if root == tree.roots[0] else "├─ "
            yield _row(bracket, root, tree, graph)
        yield from _branch_rows(tree, graph, "")


def _branch_rows(tree: Tree, graph: HostGraph, indent: str) -> Iterator[_Row]:
    """Yield the rows of what is built on a tree's roots."""
    for branch in tree.branches:
        last = branch is tree.branches[-1]
        yield _row(indent + _branch(last), branch.roots[0], branch, graph)
        yield from _branch_rows(branch, graph, f"{indent}{'   ' if last else '│  '}")


def _row(branch: str, key: str, tree: Tree, graph: HostGraph) -> _Row:
    here = {key for branch in tree.branches for key in branch.roots}
    elsewhere = tuple(graph.nodes[upper].name for upper in graph.above[key] if upper not in here)
    return _Row(branch, graph.nodes[key], elsewhere)


def _branch(last: bool) -> str:
    return "└─ " if last else "├─ "


def _title(node: Node) -> str:
    if node.kind != "guest":
        return node.kind
    return node.vm or ("" if node.folded else "-")


def _line(row: _Row, names: int, titles: int) -> Line:
    node, title = row.node, _title(row.node)
    line: Line = [
        (row.branch, "aside"),
        (node.name, "" if node.folded else "name"),
        (" " * (names - cells(row.branch) - cells(node.name)) + GAP, ""),
        (title, "" if node.kind == "guest" else "aside"),
    ]
    cell = [*node.states, *((fact, "") for fact in node.facts)]
    if row.elsewhere:
        cell.append((f"→ {', '.join(row.elsewhere)}", "aside"))
    pad = " " * max(titles - cells(title), 0)
    for span in cell:
        line += [(pad + GAP, ""), span]
        pad = ""
    return line


def dot(graph: HostGraph) -> str:
    """Return the graph for Graphviz, from the NICs on the left to the guests on the right."""
    lines = ["digraph topology {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for key, node in graph.nodes.items():
        label = [node.name, _title(node), *(word for word, _ in node.states), *node.facts]
        text = "\\n".join(_quoted(part) for part in label if part)
        colour = f', color="{_COLOURS[style]}"' if node.states and (style := node.states[-1][1]) in _COLOURS else ""
        lines.append(f'  "{_quoted(printable(key))}" [label="{text}"{colour}];')
        lines += [f'  "{_quoted(printable(lower))}" -> "{_quoted(printable(key))}";' for lower in graph.below[key]]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
