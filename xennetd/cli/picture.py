"""The host's topology as a tree for a terminal, and as a graph for dot(1)."""

from __future__ import annotations

from xennetd.cli.pages import Values
from xennetd.cli.spans import Line, Span, printable

_SHOWN = 8
"""Guests of one bridge and one state that are shown one by one. More of them are folded."""

_STATES = {"connected": "good", "pending": "waiting", "error": "bad", "detaching": "aside", "ignored": "aside"}


def tree(links: list[Values]) -> list[Line]:
    """Return the tree: NICs, what is built on them, and the guests. What several NICs carry is shown once."""
    own = {link["name"]: link for link in links if link["vif"] is None}
    guests: dict[str | None, list[Values]] = {}
    for link in links:
        if link["vif"] is not None:
            guests.setdefault(link["master"], []).append(link)
    above: dict[str, list[str]] = {}
    for link in own.values():
        for lower in link["below"]:
            above.setdefault(lower, []).append(link["name"])
    lines: list[Line] = []
    shown: set[str] = set()
    for name, link in own.items():
        if name in shown or any(lower in own for lower in link["below"]):
            continue
        together = _legs(link, own, above)
        shown |= set(together)
        for leg in together:
            elsewhere = [upper for upper in above.get(leg, ()) if upper in shown]
            lines.append(
                [
                    *_link(own[leg]),
                    *([(" ┐", "aside")] if leg != together[-1] else []),
                    *([(f"  → {', '.join(map(printable, elsewhere))}", "aside")] if elsewhere else []),
                ]
            )
        lines += _below(together, own, above, guests, "", shown)
    lines += [[("no bridge", "head")], *_guests(guests.pop(None, []), "")] if guests.get(None) else []
    return lines


def _legs(link: Values, own: dict[str, Values], above: dict[str, list[str]]) -> list[str]:
    """Return the NICs that are ports of the same bond as a NIC, itself among them; else the NIC alone."""
    for name in above.get(link["name"], ()):
        if own[name]["kind"] == "bond":
            return [leg for leg in own[name]["below"] if leg in own]
    return [link["name"]]


def _below(
    names: list[str],
    own: dict[str, Values],
    above: dict[str, list[str]],
    guests: dict[str | None, list[Values]],
    indent: str,
    shown: set[str],
) -> list[Line]:
    """Return the lines of what is built on some links, and of the guests that are their ports."""
    built = list(dict.fromkeys(upper for name in names for upper in above.get(name, ()) if upper not in shown))
    ports = [line for name in names for line in _guests(guests.get(name, []), indent)]
    lines: list[Line] = []
    for upper in built:
        last = upper == built[-1] and not ports
        shown.add(upper)
        lines.append([(f"{indent}{'└─ ' if last else '├─ '}", "aside"), *_link(own[upper])])
        lines += _below([upper], own, above, guests, f"{indent}{'   ' if last else '│  '}", shown)
    return lines + ports


def _link(link: Values) -> Line:
    facts = [link["what"], *link["addresses"], f"mtu {link['mtu']}" if link["mtu"] != 1500 else ""]
    line: Line = [(printable(link["name"]), "name"), (f"  {link['kind']}", "aside")]
    known = "  ".join(printable(fact) for fact in facts if fact)
    line += [(f"  {known}", "")] if known else []
    if not link["up"]:
        line.append(("  down", "bad"))
    elif not link["carrier"]:
        line.append(("  no carrier", "bad"))
    return line


def _guests(found: list[Values], indent: str) -> list[Line]:
    """Return a line for each guest's interface. Of many with one state only the first are shown, and their number."""
    rows: list[Line] = []
    counts: dict[str, int] = {}
    for each in found:
        state = each["state"]
        counts[state] = counts.get(state, 0) + 1
        if counts[state] <= _SHOWN:
            vm: Span = (f"  {printable(each['vm'] or '-')}", "")
            rows.append([(printable(each["name"]), "name"), vm, (f"  {printable(state)}", _STATES.get(state, ""))])
    for state, count in counts.items():
        if count > _SHOWN:
            rows.append([(f"and {count - _SHOWN} more", ""), (f"  {printable(state)}", _STATES.get(state, ""))])
    return [[(f"{indent}{'└─ ' if row is rows[-1] else '├─ '}", "aside"), *row] for row in rows]


def dot(links: list[Values]) -> str:
    """Return the graph for Graphviz, from the NICs on the left to the guests on the right."""
    lines = ["digraph topology {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for link in links:
        label = [link["name"], link["vm"] or link["what"] or "", *link["addresses"]]
        text = "\\n".join(_quoted(part) for part in label if part)
        lines.append(f'  "{_quoted(link["name"])}" [label="{text}"];')
        below = [link["master"]] if link["vif"] is not None and link["master"] else link["below"]
        lines += [f'  "{_quoted(lower)}" -> "{_quoted(link["name"])}";' for lower in below]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
