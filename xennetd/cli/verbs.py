"""What xennetctl's verbs do. Each returns the exit status; answers go to standard output, complaints to stderr."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from typing import Any

from xennetd.cli import client, pages, screen
from xennetd.cli.text import printable

FINE, NO, UNREACHABLE = 0, 1, 3
"""Exit statuses; 2, a wrong command line, is argparse's."""

Values = dict[str, Any]


def complain(sentence: str) -> None:
    """Tell the user why it did not work."""
    print(f"xennetctl: {printable(sentence)}", file=sys.stderr)


def status(arguments: argparse.Namespace) -> int:
    daemon = client.call(arguments.control, "Status")["status"]
    if arguments.json:
        _print_json(daemon)
    else:
        screen.show(pages.status(daemon, time.time()))
    return NO if daemon["problems"] else FINE


def list_(arguments: argparse.Namespace) -> int:
    rows = client.call(arguments.control, "List")["vifs"]
    if arguments.state:
        rows = [row for row in rows if row["state"] in arguments.state]
    if arguments.vm is not None:
        rows = [row for row in rows if fnmatch.fnmatchcase(row["vm"] or "", arguments.vm)]
    if arguments.json:
        # An object a line: grep and a pager show a vif whole, and it is four times as fast as indenting.
        print("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]" if rows else "[]")
    else:
        screen.show(pages.listing(rows, time.time(), screen.width()))
    return FINE


def show(arguments: argparse.Namespace) -> int:
    if arguments.debug:
        _print_json(json.loads(client.call(arguments.control, "Debug", vif=arguments.vif)["dump"]))
        return FINE
    shown = client.call(arguments.control, "Show", vif=arguments.vif)
    if arguments.json:
        _print_json({**shown["vif"], "events": shown["events"]})
    else:
        screen.show(pages.vif(shown["vif"], shown["events"], time.time()))
    return FINE


def monitor(arguments: argparse.Namespace) -> int:
    for reply in client.stream(arguments.control, "Monitor", recent=arguments.recent):
        if reply["lost"]:
            if arguments.json:
                print(json.dumps({"event": "lost", "lost": reply["lost"]}))
            complain(f"{reply['lost']} events were lost here: whatever reads this is too slow")
        if reply["event"] is None:
            continue
        if arguments.json:
            print(json.dumps(reply["event"]), flush=True)
        else:
            screen.show([pages.event(reply["event"])])
    return FINE


def reload(arguments: argparse.Namespace) -> int:
    client.call(arguments.control, "Reload", timeout=client.RELOAD_TIMEOUT)
    try:
        problems = client.call(arguments.control, "Status")["status"]["problems"]
    except (client.Refusal, client.Unreachable) as error:
        complain(f"the new policy is in force; how the daemon is now can't be told: {error}")
        return FINE
    for problem in problems:
        complain(problem)
    if problems:
        complain("the new policy is in force, and these are the problems now")
    return FINE


def check(arguments: argparse.Namespace) -> int:
    """Check FILE, or the configuration of this host: by the daemon, which knows the host, or else by ourselves."""
    found: Values | None = None
    if arguments.file is None:
        try:
            found = client.call(arguments.control, "Check")
        except client.Unreachable as error:
            complain(f"only the files are checked, not the host: {error}")
    if found is None:
        found = _check_files(arguments.file)
    if arguments.json:
        _print_json(found)
    else:
        for problem in found["problems"]:
            print(f"problem: {printable(problem)}")
        for note in found["notes"]:
            print(f"note: {printable(note)}")
        if not found["problems"]:
            print("The configuration is valid.")
    return NO if found["problems"] else FINE


def _check_files(file: str | None) -> Values:
    from xennetd.model.configuration import Policy
    from xennetd.policy.check import check
    from xennetd.policy.files import load_files
    from xennetd.policy.host_notes import HostNotes

    policy = load_files(file)
    if not isinstance(policy, Policy):
        return {"problems": [problem.describe() for problem in policy], "notes": []}
    notes = check(policy, HostNotes())
    return {
        "problems": [note.sentence for note in notes if note.error],
        "notes": [note.sentence for note in notes if not note.error],
    }


def retry(arguments: argparse.Namespace) -> int:
    return _change(arguments, "Retry", "{} is tried again; see: xennetctl show {}")


def pin(arguments: argparse.Namespace) -> int:
    return _change(arguments, "Pin", "{} is pinned: xennetd keeps its hands off it until: xennetctl unpin {}")


def unpin(arguments: argparse.Namespace) -> int:
    return _change(arguments, "Unpin", "{} is in xennetd's care again")


def _change(arguments: argparse.Namespace, method: str, done: str) -> int:
    vif = printable(client.call(arguments.control, method, vif=arguments.vif)["vif"])
    print(done.format(vif, vif))
    return FINE


def refusal(error: client.Refusal) -> list[str]:
    """Return what the daemon's no means, in sentences."""
    about = error.parameters
    match error.name:
        case "NotFound":
            return [f'there is no guest interface, link or domain "{about["vif"]}"; see: xennetctl list']
        case "Ambiguous":
            return [f'"{about["vif"]}" has several interfaces, name one of them: {", ".join(about["candidates"])}']
        case "NotPermitted":
            return ["only root may do that"]
        case "Rejected":
            return [*about["problems"], "the old policy stays"]
        case "Refused":
            return [about["reason"]]
        case _:
            return [f"xennetd answered {error.name} {json.dumps(about)}; are it and xennetctl of the same version?"]


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
