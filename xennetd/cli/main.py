"""The program `xennetctl`: its command line, and the exit status of what came of it.

Whatever only some verbs need is imported when they do: `list` is to answer at once, with a thousand guests too.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable

from xennetd import __version__
from xennetd.cli import client, verbs, where
from xennetd.cli.pages import STATES
from xennetd.model.places import CONTROL

_VIF = "an interface: vif7.0 or 7.0, its link's name, its domain's name if that has just one, or NAME/0"

_VIF_NAMES = {"bash": "_xennetctl_vifs", "zsh": "_xennetctl_vifs"}
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
_COMPLETION = {
    "bash": '_xennetctl_vifs() { compgen -W "$(xennetctl list 2>/dev/null | tail -n +2 | cut -d" " -f1)" -- "$1"; }',
    "zsh": '_xennetctl_vifs() { compadd -- $(xennetctl list 2>/dev/null | tail -n +2 | cut -d" " -f1) }',
}
"""How shells complete an argument (shtab's `complete` attribute), and the functions that this needs."""

_EPILOG = """\
examples:
  xennetctl status                     is all well?
  xennetctl list --state error         who has no network, and why
  xennetctl show web-1                 everything about the interface of one guest
  xennetctl list --json | jq -r '.[] | select(.bridge == "xenbr0") | .vif'

exit status:
  0  fine
  1  the answer is no, or a problem was found
  2  the command line is wrong
  3  xennetd can't be reached

Reading is open to the group xennet; reload, retry, pin and unpin are root's.
"""

Verb = Callable[[argparse.Namespace], int]


class _Help(argparse.HelpFormatter):
    """Wraps paragraphs and leaves indented lines, which are examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        lines = (line if line.startswith(" ") else textwrap.fill(line, width) for line in text.splitlines())
        return "\n".join(indent + line for line in lines)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser (also the source of the man page and of shell completion)."""
    parser = argparse.ArgumentParser(
        prog="xennetctl",
        description="Ask and direct xennetd, the network daemon of a Xen host.",
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"xennetctl {__version__}")
    parser.add_argument(
        "--control", metavar="PATH",
        help=f"the daemon's control socket (default: daemon.control of the configuration, or else {CONTROL})",
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
        commands, "status", verbs.status, "how the daemon is, problems first",
        "Show how the daemon is, and above all what an administrator should look at: problems (!), for which the exit "
        "status is 1, and notes (-) on what is as somebody wanted it, such as pins and guests that are denied.",
        "  xennetctl status\n  xennetctl status --json | jq .counts",
    )  # fmt: skip
    _add_json(status, "the status as one JSON object")

    listing = _add(
        commands, "list", verbs.list_, "all guest interfaces",
        "List the guests' interfaces. On a terminal, columns that are empty or do not fit are left out; elsewhere all "
        "are printed, aligned, with - for nothing.",
        "  xennetctl list --state error --state pending\n  xennetctl list --vm 'web-*'\n  xennetctl list --json",
    )  # fmt: skip
    listing.add_argument(
        "--state", metavar="STATE", choices=STATES, action="append",
        help="only those in this state: %(choices)s; may be given several times",
    )  # fmt: skip
    listing.add_argument("--vm", metavar="PATTERN", help="only those of domains whose name matches, like 'web-*'")
    _add_json(listing, "a JSON list of objects")

    show = _add(
        commands, "show", verbs.show, "everything about one interface",
        "Show everything about one guest's interface: what it is part of and why, what it waits for or what is wrong, "
        "and its latest events.",
        "  xennetctl show vif7.0\n  xennetctl show web-1\n  xennetctl show web-1/1",
    )  # fmt: skip
    _add_vif(show)
    _add_json(show, "one JSON object, with the latest events in it")
    show.add_argument(
        "--debug", action="store_true",
        help="for a bug report: the last observation of the interface, what was decided from it and by which policy",
    )  # fmt: skip

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
    _add_json(monitor, 'a JSON object a line; events that were lost are told by {"event": "lost", "lost": N}')

    check = _add(
        commands, "check", verbs.check, "look for errors in the configuration",
        "Look for errors in the configuration files as they are now, changing nothing. The running daemon does it, "
        "since it knows the host as well; without a daemon the files alone are checked. The exit status is 1 when "
        "there is an error; notes are no errors.",
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
        "Read the configuration again and make it so; interfaces for which nothing changes are not touched. When it "
        "has an error nothing changes at all, the errors are printed, and the exit status is 1. With the new policy in "
        "force, problems that the daemon then has are printed too, as status shows them.",
        "  xennetctl check && xennetctl reload",
    )  # fmt: skip
    for name, run, help_, description, example in (
        ("retry", verbs.retry, "try to attach an interface again",
         "Try to attach an interface that is in error again, at once. xennetd tries by itself when what was missing "
         "appears; this is for when it can't notice.",
         "  xennetctl retry vif7.0"),
        ("pin", verbs.pin, "keep xennetd's hands off an interface",
         "Pin an interface: it keeps xennetd's hands off this vif until unpin. Nothing is configured, repaired or "
         "taken away, so that one can work on its port by hand during an incident.",
         "  xennetctl pin web-1\n  bridge link set dev vif7.0 isolated on\n  xennetctl unpin web-1"),
        ("unpin", verbs.unpin, "give an interface back into xennetd's care",
         "End a pin: the policy holds again at once, and what was changed by hand meanwhile is put right.",
         "  xennetctl unpin vif7.0"),
    ):  # fmt: skip
        _add_vif(_add(commands, name, run, help_, description, example))


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str, run: Verb, help_: str, description: str, example: str,
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a verb."""
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
    except client.Refusal as error:
        for sentence in verbs.refusal(error):
            verbs.complain(sentence)
        return verbs.NO
    except client.Unreachable as error:
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
