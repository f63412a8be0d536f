"""Turns the daemon's answers into lines for people. All times are in seconds since the epoch."""

from __future__ import annotations

import time
from typing import Any

from xennetd.cli.spans import GAP, Line, Span, age, duration, printable, span_of_time, table

STATES = ("pending", "connected", "error", "detaching", "ignored")

_STATE_STYLES = {"connected": "good", "pending": "waiting", "error": "bad", "detaching": "aside", "ignored": "aside"}
_EVENT_STYLES = {
    "attach": "good", "adopt": "good", "error": "bad", "denied": "bad", "drift": "waiting", "warning": "waiting",
}  # fmt: skip
_MODES = {"enforce": "enforces its policy", "observe": "only observes: it changes nothing"}

_LIST = ("VIF", "VM", "STATE", "NETWORK", "BRIDGE", "VLAN", "MAC", "IPS", "AGE", "NOTE")
_SPARE = ("IPS", "MAC", "VLAN", "NETWORK", "AGE")

_NOTHING: Span = ("-", "aside")

Values = dict[str, Any]


def listing(rows: list[Values], now: float, width: int | None) -> list[Line]:
    """Return the table of vifs for `xennetctl list`. `width` is the terminal's, None for no terminal."""
    cells = [_row(row, now) for row in rows]
    spare = _SPARE if any(cell[-1][0] != "-" for cell in cells) else (*_SPARE, "NOTE")
    return table(_LIST, cells, width, spare)


def _row(row: Values, now: float) -> list[Span]:
    return [
        (printable(row["vif"]), "name"),
        _cell(row["vm"]),
        (printable(row["state"]), _STATE_STYLES.get(row["state"], "")),
        _cell(row["network"]),
        _cell(row["bridge"] or (row["uplink"] and f"via {row['uplink']}")),
        _cell(row["vlan"]),
        _cell(row["mac"]),
        _cell(",".join(row["ips"])),
        (age(now - row["since"]), "aside") if row["since"] else _NOTHING,
        _note(row),
    ]


def _cell(value: object) -> Span:
    return (printable(value), "") if value not in (None, "") else _NOTHING


def _note(row: Values) -> Span:
    """Return what is unusual about a vif: a pin, its error or reason, the tap's error, warnings."""
    tap = row["tap"] if row["tap"] not in (None, "connected") else None
    why = row["error"] or (None if row["pinned"] else row["reason"])
    notes = ["pinned" if row["pinned"] else None, why, tap and f"tap: {tap}", *(row["warnings"] or ())]
    text = "; ".join(note for note in notes if note)
    return (printable(text), "bad" if row["error"] or tap else "waiting") if text else _NOTHING


def status(daemon: Values, now: float) -> list[Line]:
    """Return the page of `xennetctl status`, problems first."""
    lines: list[Line] = [[("! ", "bad"), (printable(problem), "bad")] for problem in daemon["problems"]]
    lines += [[("- ", "waiting"), (printable(note), "")] for note in daemon["notes"]]
    if lines:
        lines.append([])
    counts = daemon["counts"]
    total = sum(counts.values())
    vifs: Line = [(f"{total} in all" if total else "none", "")]
    for state in STATES:
        if counts.get(state):
            vifs += [(", ", ""), (f"{counts[state]} {state}", _STATE_STYLES[state])]
    ready = ("ready", "good") if daemon["ready"] else ("starting: not every vif has been reconciled yet", "waiting")
    mode = daemon["mode"]
    facts: list[tuple[str, Line]] = [
        ("xennetd", [(printable(daemon["version"]), "name"), (", ", ""), ready]),
        ("Mode", [(_MODES.get(mode, printable(mode)), "" if mode == "enforce" else "waiting")]),
        ("Running", [(f"for {span_of_time(now - daemon['since'])}, pid {daemon['pid']}, in {_domain(daemon)}", "")]),
        ("Vifs", vifs),
        ("Policy", [(", ".join(map(printable, daemon["config"])) or "none: each domain's own vif= line decides", "")]),
        ("xenstore", [(printable(daemon["xenstore"]), "")]),
    ]
    facts[4:4] = [("Network", _network(network)) for network in daemon["networks"]]
    for key, sentence in (
        ("xenstore_reconnects", "xennetd connected to xenstore again {} times"),
        ("netlink_resyncs", "xennetd read all of the kernel's links again {} times"),
        ("audit_dropped", "{} journal entries were lost"),
    ):
        if daemon[key]:
            facts.append(("Since then", [(sentence.format(daemon[key]), "waiting")]))
    return lines + _facts(facts)


def _network(network: Values) -> Line:
    what = [network["mode"], network["bridge"], *network["subnets"], network["uplink"] and f"via {network['uplink']}"]
    vifs = f"{network['vifs']} vif{'' if network['vifs'] == 1 else 's'}"
    known = printable(", ".join([*filter(None, what), vifs]))
    line: Line = [(printable(network["name"]), "name"), (f": {known}", "")]
    return [*line, (", not ready", "bad")] if network["problem"] else line


def _domain(daemon: Values) -> str:
    return f"driver domain {daemon['domid']}" if daemon["domid"] else "dom0"


def _facts(facts: list[tuple[str, Line]]) -> list[Line]:
    size = max(len(name) for name, _ in facts)
    return [[(name.ljust(size) + GAP, "head"), *value] for name, value in facts]


def vif(row: Values, events: list[Values], now: float) -> list[Line]:
    """Return the page of `xennetctl show` about one vif, with its latest events."""
    since = f" for {span_of_time(now - row['since'])}" if row["since"] else ""
    state = printable(row["state"])
    facts: list[tuple[str, Line]] = [
        (printable(row["vif"]), [(state, _STATE_STYLES.get(state, "")), (since, "")]),
    ]

    def fact(name: str, value: object, style: str = "") -> None:
        if value:
            facts.append((name, [(printable(value), style)]))

    fact("Error", row["error"], "bad")
    if row["pinned"]:
        fact("Pinned", f"xennetd does not touch it until: xennetctl unpin {row['vif']}", "waiting")
    else:
        fact("Why", row["reason"], "waiting")
    for warning in row["warnings"] or ():
        fact("Warning", warning, "waiting")
    fact("Domain", _with(row["vm"] or "unknown name", f"domid {row['domid']}", row["uuid"]))
    fact("Link", row["link"] and _with(row["link"], _labelled("index", row["ifindex"]), _labelled("mtu", row["mtu"])))
    fact("Tap", row["tap"], "" if row["tap"] == "connected" else "bad")
    fact("Network", _with(row["network"] or "as the domain's vif= line says", row["mode"]))
    fact("Bridge", row["bridge"])
    fact("Uplink", row["uplink"])
    fact("Gateway", ", ".join(row["gateways"] or ()))
    fact("VLAN", row["vlan"])
    fact("MAC", row["mac"])
    fact("IPs", ", ".join(row["ips"]))
    fact("Policy", row["policy"])
    fact("Script", row["script"])
    fact("Attached in", row["duration_us"] is not None and duration(row["duration_us"]))
    lines = _facts(facts)
    if events:
        lines += [[], [("Latest events", "head")], *(event(record) for record in events)]
    return lines


def _labelled(label: str, value: object) -> str | None:
    return None if value is None else f"{label} {value}"


def _with(value: str, *details: str | None) -> str:
    """Return a value with its known details in brackets."""
    known = ", ".join(detail for detail in details if detail)
    return f"{value} ({known})" if known else value


def event(record: Values) -> Line:
    """Return the line about one event, for `xennetctl monitor` and `show`."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["time"]))
    return [
        (f"{when}.{int(record['time'] % 1 * 1000):03d}{GAP}", "aside"),
        (printable(record["event"]).ljust(8) + GAP, _EVENT_STYLES.get(record["event"], "name")),
        (printable(record["message"]), ""),
    ]


def plan(result: Values) -> list[Line]:
    """Return the page of `xennetctl plan`, which says what an apply would do."""
    lines = _problems(result)
    if result["steps"]:
        lines += [[("apply would do this:", "head")], *([(f"  {printable(step)}", "")] for step in result["steps"])]
    elif not result["refused"]:
        lines.append([("The host's links are as the configuration says.", "good")])
    lines += [[("- ", "aside"), (printable(note), "")] for note in result["notes"]]
    lines += _guests(result, "the guests would follow:")
    if result["steps"] and result["problems"]:
        lines.append([("It would be refused, and nothing would be changed.", "bad")])
    return lines


def applied(result: Values, confirm: int | None = None) -> list[Line]:
    """Return the page of `xennetctl apply`, which says what was done, and for how many seconds without `confirm`."""
    lines = _problems(result)
    if result["refused"]:
        return [*lines, [("Nothing was changed.", "bad")]]
    if result["steps"]:
        lines += [[("done:", "head")], *([(f"  {printable(step)}", "")] for step in result["steps"])]
    elif not result["problems"]:
        lines.append([("The host's links were as the configuration says.", "good")])
    lines += _guests(result, "the guests follow:")
    if confirm is not None:
        text = f"In {confirm} s this is rolled back. To keep it, run: xennetctl confirm. The guests follow then."
        lines.append([(text, "waiting")])
    return lines


def _guests(result: Values, title: str) -> list[Line]:
    """Return the lines about guests, in red where one loses its network."""
    lines: list[Line] = [[(title, "head")]] if result["guests"] else []
    for change in result["guests"]:
        lines.append([(f"  {printable(change)}", "bad" if change.startswith("cut off") else "")])
    return lines


def _problems(result: Values) -> list[Line]:
    return [[("! ", "bad"), (printable(problem), "bad")] for problem in result["problems"]]
