"""The program `xennetctl`: its command line and its exit status.

Modules that only some verbs need are imported by these verbs, so that `list` answers at once, even for 1,000 guests.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable

from xennetd import __version__
from xennetd.cli import connection, verbs, where
from xennetd.cli.pages import STATES
from xennetd.model.places import CONTROL

_VIF = "an interface: vif7.0 or 7.0, the name of its link, the name of a domain with one interface, or NAME/0"

_VIF_NAMES = {"bash": "_xennetctl_vifs", "zsh": "_xennetctl_vifs"}
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
_COMPLETION = {
    "bash": '_xennetctl_vifs() { compgen -W "$(xennetctl list 2>/dev/null | tail -n +2 | cut -d" " -f1)" -- "$1"; }',
    "zsh": '_xennetctl_vifs() { compadd -- $(xennetctl list 2>/dev/null | tail -n +2 | cut -d" " -f1) }',
}
"""How shells complete an argument (shtab's `complete` attribute), and the shell functions for it."""

_EPILOG = """\
examples:
  xennetctl status                     the daemon's state, problems first
  xennetctl list --state error         guests without their network, and why
  xennetctl show web-1                 everything about the interface of one guest
  xennetctl list --json | jq -r '.[] | select(.bridge == "xenbr0") | .vif'

exit status:
  0  fine
  1  the daemon refused, or a problem was found
  2  the command line is wrong
  3  xennetd can't be reached

Members of the group xennet may read; only root may import, plan, apply, confirm, reload, retry, pin and unpin.
"""

Verb = Callable[[argparse.Namespace], int]


class _Help(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves indented lines, which are examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        lines = (line if line.startswith(" ") else textwrap.fill(line, width) for line in text.splitlines())
        return "\n".join(indent + line for line in lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. The man page and the shell completion are made from it."""
    parser = argparse.ArgumentParser(
        prog="xennetctl",
        description="Query and direct xennetd, the network daemon of a Xen host.",
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"xennetctl {__version__}")
    parser.add_argument(
        "--control", metavar="PATH",
        help=f"the daemon's control socket (default: daemon.control of the configuration, else {CONTROL})",
    )  # fmt: skip
    commands = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_reading(commands)
    _add_changing(commands)
    completion = _add(
        commands, "completion", _complete, "print the completion script of a shell",
        "Print a script that makes a shell complete xennetctl's command line.",
        "  xennetctl completion bash > /usr/share/bash-completion/completions/xennetctl",
    )  # fmt: skip
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")
    return parser


def _add_reading(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = _add(
        commands, "status", verbs.status, "the daemon's state, problems first",
        "Show the daemon's state. Problems (!) come first; with any problem the exit status is 1. Then come notes (-) "
        "on conditions that somebody asked for, such as pins and denied guests.",
        "  xennetctl status\n  xennetctl status --json | jq .counts",
    )  # fmt: skip
    _add_json(status, "the status as one JSON object")

    listing = _add(
        commands, "list", verbs.list_, "all guest interfaces",
        "List the guests' interfaces. On a terminal, columns that are empty or do not fit are left out. Elsewhere all "
        "columns are printed, aligned, and - stands for an empty cell.",
        "  xennetctl list --state error --state pending\n  xennetctl list --vm 'web-*'\n  xennetctl list --json",
    )  # fmt: skip
    listing.add_argument(
        "--state", metavar="STATE", choices=STATES, action="append",
        help="only interfaces in this state: %(choices)s; may be given several times",
    )  # fmt: skip
    listing.add_argument("--vm", metavar="PATTERN", help="only interfaces of domains whose name matches, like 'web-*'")
    _add_json(listing, "a JSON list of objects")

    show = _add(
        commands, "show", verbs.show, "everything about one interface",
        "Show everything about one guest's interface: its network and the policy that decided it, what it waits for, "
        "its error, and its latest events.",
        "  xennetctl show vif7.0\n  xennetctl show web-1\n  xennetctl show web-1/1",
    )  # fmt: skip
    _add_vif(show)
    _add_json(show, "one JSON object, with the latest events in it")
    show.add_argument(
        "--debug", action="store_true",
        help="for a bug report: the last observation of the interface, the decision made from it, and the policy",
    )  # fmt: skip

    topology = _add(
        commands, "topology", verbs.topology, "a picture of the host's links and guests",
        "Show what is built on what: NICs, bonds, VLANs, bridges, and the guests on them. Of many guests with the same "
        "state on one bridge only the first are shown.",
        "  xennetctl topology\n  xennetctl topology --watch\n  xennetctl topology --format svg > topology.svg",
    )  # fmt: skip
    topology.add_argument(
        "--format",
        choices=("text", "svg", "dot", "json"),
        default="text",
        help="text (the default); svg, a drawing for a web page; the language of dot(1); or json, with every guest",
    )
    topology.add_argument(
        "--watch",
        action="store_true",
        help="show the picture on the whole terminal and keep it up to date, until q or ^C",
    )

    monitor = _add(
        commands, "monitor", verbs.monitor, "events as they happen",
        "Print each attach, detach, change, denial, error and repair as it happens, until interrupted. The journal has "
        "the same events: journalctl -t xennetd.",
        "  xennetctl monitor --recent 20\n  xennetctl monitor --json | jq 'select(.event == \"error\")'",
    )  # fmt: skip
    monitor.add_argument(
        "-n", "--recent", metavar="N", type=_count, default=0,
        help="begin with up to N of the latest events (at most 200)",
    )  # fmt: skip
    _add_json(monitor, 'one JSON object on each line; {"event": "lost", "lost": N} stands for N lost events')

    check = _add(
        commands, "check", verbs.check, "look for errors in the configuration",
        "Look for errors in the configuration files as they are now, and change nothing. The running daemon checks "
        "them, since it knows the host; without a daemon only the files are checked. With any error the exit status is "
        "1; notes are not errors.",
        "  xennetctl check\n  xennetctl check /tmp/new.toml && cp /tmp/new.toml /etc/xennetd/xennetd.toml",
    )  # fmt: skip
    file = check.add_argument(
        "file", metavar="FILE", nargs="?",
        help="check FILE alone, without the daemon (default: /etc/xennetd/xennetd.toml and /etc/xennetd/conf.d/*.toml)",
    )  # fmt: skip
    file.complete = _FILES  # type: ignore[attr-defined] # shtab's
    _add_json(check, "a JSON object with the lists problems and notes")


def _add_changing(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add(
        commands, "reload", verbs.reload, "read the configuration again",
        "Read the configuration again and put it into force. Interfaces whose result does not change are not touched. "
        "If the configuration has an error, nothing changes, the errors are printed, and the exit status is 1. "
        "Otherwise the problems that the daemon has under the new policy are printed, as status shows them.",
        "  xennetctl check && xennetctl reload",
    )  # fmt: skip
    plan = _add(
        commands, "plan", verbs.plan, "what apply would do to the host and its guests",
        "Show what apply would do with the configuration files as they are now: which bridges, bonds, VLANs, ports and "
        "addresses of the host it would make, change and remove, in the words of ip(8), and which guests would be "
        "moved, cut off, refused or changed. Nothing is changed.",
        "  xennetctl plan",
    )  # fmt: skip
    _add_json(plan, "a JSON object with the lists steps, guests, problems and notes")
    _add(
        commands, "import", verbs.import_, "the configuration of the links that are there",
        "Print the sections of the configuration that say what the host's bridges, bonds, VLANs and dummies are now. "
        "An apply of them changes nothing. Addresses are named in comments: they stay with the program that gave them.",
        "  xennetctl import",
    )  # fmt: skip
    apply = _add(
        commands, "apply", verbs.apply, "put the host's own links into force, and reload",
        "Make the host's links as the sections [nic.NAME], [bond.NAME], [vlan.NAME], [bridge.NAME], [vxlan.NAME] and "
        "[dummy.NAME] of the configuration say, now and at each start, then reload. If anything would lock somebody "
        "out, nothing is done, and the exit status is 1. A reload alone does not change the host's links, unless "
        "daemon.apply says so.",
        "  xennetctl plan\n  xennetctl apply --confirm\n  xennetctl confirm",
    )  # fmt: skip
    apply.add_argument(
        "--confirm", metavar="SECONDS", type=_seconds, nargs="?", const=60,
        help="roll back after so many seconds (10 to 3600, default: 60) unless `xennetctl confirm` follows, also when "
        "the connection or xennetd ends meanwhile",
    )  # fmt: skip
    _add_json(apply, "a JSON object with the lists steps, guests and problems")
    _add(
        commands, "confirm", verbs.confirm, "keep what apply --confirm has put into force",
        "Keep the host's links as apply --confirm has made them, and reload. Without it they are rolled back in time.",
        "  xennetctl apply --confirm 60 && xennetctl confirm",
    )  # fmt: skip
    for name, run, help_, description, example in (
        ("retry", verbs.retry, "try to attach an interface again",
         "Try at once to attach an interface again that is in error. xennetd tries by itself when a missing thing "
         "appears, a bridge for instance. Use retry after repairs that xennetd can't notice.",
         "  xennetctl retry vif7.0"),
        ("pin", verbs.pin, "make xennetd leave an interface alone",
         "Pin an interface: xennetd does not touch this vif until unpin. It configures, repairs and removes nothing, "
         "so that an administrator can change the port by hand during an incident.",
         "  xennetctl pin web-1\n  bridge link set dev vif7.0 isolated on\n  xennetctl unpin web-1"),
        ("unpin", verbs.unpin, "make xennetd manage a pinned interface again",
         "End a pin: the policy holds again at once, and xennetd reverts what was changed by hand.",
         "  xennetctl unpin vif7.0"),
    ):  # fmt: skip
        _add_vif(_add(commands, name, run, help_, description, example))


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str, run: Verb, help_: str, description: str, example: str,
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a verb to the command line, and return its parser."""
    verb = commands.add_parser(
        name,
        help=help_,
        description=description,
        epilog=f"examples:\n{example}",
        formatter_class=_Help,
    )
    verb.set_defaults(run=run)
    return verb


def _add_vif(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("vif", metavar="VIF", help=_VIF).complete = _VIF_NAMES  # type: ignore[attr-defined] # shtab's


def _add_json(verb: argparse.ArgumentParser, what: str) -> None:
    verb.add_argument("--json", action="store_true", help=f"for programs: {what}")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of events")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 10 <= int(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 10 to 3600")
    return int(text)


def _complete(arguments: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(parser(), arguments.shell, preamble=_COMPLETION.get(arguments.shell, "")))
    return verbs.FINE


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit status."""
    arguments = parser().parse_args(argv)
    arguments.control = arguments.control or where.control()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a TextIOWrapper
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except connection.Refusal as error:
        for sentence in verbs.refusal(error):
            verbs.complain(sentence)
        return verbs.NO
    except connection.Unreachable as error:
        verbs.complain(str(error))
        return verbs.UNREACHABLE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The interpreter flushes once more at its end.
        return 128 + signal.SIGPIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
