"""The verbs of xennetctl. A verb prints its answer to standard output, complaints to stderr, and returns the status."""

from __future__ import annotations

import argparse
import fnmatch
import json
import signal
import sys
import time

from xennetd.cli import connection, pages, screen
from xennetd.cli.spans import printable, printable_lines

FINE, NO, WRONG, UNREACHABLE = 0, 1, 2, 3
"""Exit statuses. Most often WRONG, for a wrong command line, comes from argparse."""


def complain(sentence: str) -> None:
    """Print a sentence about a failure or a problem to stderr."""
    print(f"xennetctl: {printable(sentence)}", file=sys.stderr)


def status(arguments: argparse.Namespace) -> int:
    """Print the daemon's state. The status is NO if there are problems."""
    daemon = connection.call(arguments.control, "Status")["status"]
    if arguments.json:
        _print_json(daemon)
    else:
        screen.show(pages.status(daemon, time.time()))
    return NO if daemon["problems"] else FINE


def list_(arguments: argparse.Namespace) -> int:
    """Print all vifs, or those that match `--state` and `--vm`."""
    rows = connection.call(arguments.control, "List")["vifs"]
    if arguments.state:
        rows = [row for row in rows if row["state"] in arguments.state]
    if arguments.vm is not None:
        rows = [row for row in rows if fnmatch.fnmatchcase(row["vm"] or "", arguments.vm)]
    if arguments.json:
        # One object on each line: grep and a pager show a vif whole, and it is four times as fast as indenting.
        print("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]" if rows else "[]")
    else:
        screen.show(pages.listing(rows, time.time(), screen.width()))
    return FINE


def show(arguments: argparse.Namespace) -> int:
    """Print everything about one vif; with `--debug`, its last observation and decision and the policy."""
    if arguments.debug:
        _print_json(json.loads(connection.call(arguments.control, "Debug", vif=arguments.vif)["dump"]))
        return FINE
    shown = connection.call(arguments.control, "Show", vif=arguments.vif)
    if arguments.json:
        _print_json({**shown["vif"], "events": shown["events"]})
    else:
        screen.show(pages.vif(shown["vif"], shown["events"], time.time()))
    return FINE


def monitor(arguments: argparse.Namespace) -> int:
    """Print events as they happen, until interrupted."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's own handler would run after the next event, if the signal comes just before the wait for it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for reply in connection.stream(arguments.control, "Monitor", recent=arguments.recent):
        if reply["lost"]:
            if arguments.json:
                print(json.dumps({"event": "lost", "lost": reply["lost"]}))
            complain(f"{reply['lost']} events were lost here, because xennetctl's output is read too slowly")
        if reply["event"] is None:
            continue
        if arguments.json:
            print(json.dumps(reply["event"]), flush=True)
        else:
            screen.show([pages.event(reply["event"])])
    return FINE


def reload(arguments: argparse.Namespace) -> int:
    """Make the daemon read its configuration again, then print its problems under the new policy."""
    connection.call(arguments.control, "Reload", timeout=connection.RELOAD_TIMEOUT)
    try:
        problems = connection.call(arguments.control, "Status")["status"]["problems"]
    except (connection.Refusal, connection.Unreachable) as error:
        complain(f"the new policy is in force, but the daemon's status can't be read: {error}")
        return FINE
    for problem in problems:
        complain(problem)
    if problems:
        complain("the new policy is in force, and the problems above remain")
    return FINE


def topology(arguments: argparse.Namespace) -> int:
    """Print the picture of the host's links and guests, or keep it on the terminal."""
    if arguments.watch:
        return _watch(arguments)
    from xennetd.cli import picture
    from xennetd.cli.host_graph import host_graph

    links = connection.call(arguments.control, "Topology")["links"]
    match arguments.format:
        case "json":
            _print_json(links)
        case "dot":
            print(picture.dot(host_graph(links)))
        case "svg":
            from xennetd.cli.svg import svg

            print(svg(host_graph(links)))
        case _:
            screen.show(picture.tree(host_graph(links)))
    return FINE


def _watch(arguments: argparse.Namespace) -> int:
    if arguments.format != "text":
        complain(f"--watch shows the picture as text: leave out --format {arguments.format}")
        return WRONG
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal or not sys.stdout.isatty():
        complain("--watch draws on a terminal whose cursor can be moved, and standard output is none")
        return WRONG
    from xennetd.cli.watch import watch

    watch(arguments.control, console)
    return FINE


def import_(arguments: argparse.Namespace) -> int:
    """Print the configuration that says what the host's links are already."""
    print(printable_lines(connection.call(arguments.control, "Import")["toml"]), end="")
    return FINE


def plan(arguments: argparse.Namespace) -> int:
    """Print what `apply` would do. The status is NO if it would refuse."""
    result = connection.call(arguments.control, "Plan", timeout=connection.RELOAD_TIMEOUT)["plan"]
    if arguments.json:
        _print_json(result)
    else:
        screen.show(pages.plan(result))
    return NO if result["problems"] else FINE


def apply(arguments: argparse.Namespace) -> int:
    """Put the host's topology into force, and print what was done. The status is NO if anything was not."""
    how = {} if arguments.confirm is None else {"confirm": arguments.confirm}
    result = connection.call(arguments.control, "Apply", timeout=connection.RELOAD_TIMEOUT, **how)["plan"]
    if arguments.json:
        _print_json(result)
    else:
        screen.show(pages.applied(result, arguments.confirm))
    return NO if result["problems"] else FINE


def confirm(arguments: argparse.Namespace) -> int:
    """Keep what an apply has put into force. The status is NO if the guests do not follow."""
    problems = connection.call(arguments.control, "Confirm", timeout=connection.RELOAD_TIMEOUT)["problems"]
    print("The host's links stay as they are.")
    for problem in problems:
        complain(problem)
    return NO if problems else FINE


def check(arguments: argparse.Namespace) -> int:
    """Check FILE here, or the host's configuration by the daemon, which knows the host; without a daemon also here."""
    result: pages.Values | None = None
    if arguments.file is None:
        try:
            result = connection.call(arguments.control, "Check")
        except connection.Unreachable as error:
            complain(f"only the files are checked, not the host: {error}")
    if result is None:
        result = _check_files(arguments.file)
    if arguments.json:
        _print_json(result)
    else:
        for problem in result["problems"]:
            print(f"problem: {printable(problem)}")
        for note in result["notes"]:
            print(f"note: {printable(note)}")
        if not result["problems"]:
            print("The configuration is valid.")
    return NO if result["problems"] else FINE


def _check_files(file: str | None) -> pages.Values:
    from xennetd.model.configuration import Policy
    from xennetd.policy.check import check, errors_of, remarks_of
    from xennetd.policy.files import exposed, read_files
    from xennetd.policy.host_notes import HostNotes

    files = read_files(file)
    policy = files.load()
    if not isinstance(policy, Policy):
        return {"problems": [problem.describe() for problem in policy], "notes": []}
    # FILE is not in force yet, and may be a draft of any user's.
    notes = check(policy, HostNotes(exposed=exposed(policy.files) if file is None else ()))
    return {"problems": files.placed(errors_of(notes)), "notes": files.placed(remarks_of(notes))}


def retry(arguments: argparse.Namespace) -> int:
    """Make the daemon try at once to attach a vif again."""
    return _change(arguments, "Retry", "xennetd tries {0} again; see: xennetctl show {0}")


def pin(arguments: argparse.Namespace) -> int:
    """Make the daemon leave a vif alone until `unpin`."""
    return _change(arguments, "Pin", "{0} is pinned: xennetd does not touch it until: xennetctl unpin {0}")


def unpin(arguments: argparse.Namespace) -> int:
    """Make the daemon manage a pinned vif again."""
    return _change(arguments, "Unpin", "xennetd manages {0} again")


def _change(arguments: argparse.Namespace, method: str, done: str) -> int:
    """Call a method for the vif that the command line names, and print `done` with the vif's name in it."""
    vif = printable(connection.call(arguments.control, method, vif=arguments.vif)["vif"])
    print(done.format(vif))
    return FINE


def refusal(error: connection.Refusal) -> list[str]:
    """Return the sentences that explain an error from the daemon."""
    about = error.parameters
    match error.name:
        case "NotFound":
            return [f'there is no guest interface, link or domain "{about["vif"]}"; see: xennetctl list']
        case "Ambiguous":
            return [f'"{about["vif"]}" has several interfaces; name one of them: {", ".join(about["candidates"])}']
        case "NotPermitted":
            return ["only root may do this"]
        case "Rejected":
            return [*about["problems"], "the old policy stays"]
        case "Refused":
            return [about["reason"]]
        case _:
            return [f"xennetd answered {error.name} {json.dumps(about)}; have xennetd and xennetctl the same version?"]


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
