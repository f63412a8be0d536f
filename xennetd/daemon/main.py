"""The program `xennetd`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

from xennetd import __version__
from xennetd.daemon.host_checks import all_host_notes, host_notes
from xennetd.daemon.loading import observing
from xennetd.daemon.observability import log
from xennetd.daemon.observability.audit import Audit
from xennetd.daemon.observability.journal import Journal
from xennetd.daemon.supervisor import SIGNALS_FOR_LATER, Supervisor
from xennetd.daemon.tasks import cause_of
from xennetd.model.configuration import Policy
from xennetd.model.errors import XennetdError
from xennetd.policy.check import Notes, check, errors_of
from xennetd.policy.files import read_files

EXIT_PROBLEM = 1
EXIT_CONFIGURATION = os.EX_CONFIG
"""The exit status of a start that the configuration prevents.

The unit's RestartPreventExitStatus= names this number, since another start would fail in the same way.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. The man page is made from it."""
    parser = argparse.ArgumentParser(
        prog="xennetd",
        description="The network daemon of a Xen host: connects guests' interfaces according to one policy.",
        epilog="Without a configuration, xennetd puts every guest into the bridge that the guest's vif= line names, as "
        "Xen's vif-bridge does. Query and direct a running daemon with xennetctl.",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="read FILE instead of /etc/xennetd/xennetd.toml and /etc/xennetd/conf.d/*.toml"
    )
    parser.add_argument(
        "--check", action="store_true", help="report errors in the configuration; exit with status 1 if there are any"
    )
    parser.add_argument(
        "--observe", action="store_true", help="change nothing, and report what would be changed (see xennetctl list)"
    )
    parser.add_argument(
        "--debug", action="store_true", help="log debug messages too; SIGUSR2 switches them on and off at run time"
    )
    parser.add_argument("--version", action="version", version=f"xennetd {__version__}")
    return parser


def main() -> int:
    """Run the daemon, or check its configuration with `--check`. Returns the exit status."""
    # The unit blocks these signals even before Python starts. Supervisor.run unblocks them.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_FOR_LATER)
    arguments = parser().parse_args()
    wrong = EXIT_PROBLEM if arguments.check else EXIT_CONFIGURATION
    files = read_files(arguments.config)
    policy = files.load()
    if not isinstance(policy, Policy):
        for problem in policy:
            print(problem.describe(), file=sys.stderr)
        return wrong
    if arguments.observe:
        policy = observing(policy)
    notes = check(policy, all_host_notes(policy) if arguments.check else host_notes(policy))
    if arguments.check:
        for note, sentence in zip(notes, files.placed(notes), strict=True):
            print(("error: " if note.error else "note: ") + sentence)
        return wrong if any(note.error for note in notes) else 0
    if errors := files.placed(errors_of(notes)):
        print(f"xennetd: {errors[0]}", file=sys.stderr)
        return wrong
    journal = Journal()
    log.configure(journal, debug=arguments.debug)
    failed = False
    try:
        asyncio.run(_serve(policy, notes, journal, arguments))
    except* XennetdError as group:
        print(f"xennetd: {cause_of(group)}", file=sys.stderr)
        failed = True
    return EXIT_PROBLEM if failed else 0


async def _serve(policy: Policy, notes: Notes, journal: Journal, arguments: argparse.Namespace) -> None:
    await Supervisor(policy, notes, Audit(journal), config=arguments.config, observe=arguments.observe).run()


if __name__ == "__main__":
    sys.exit(main())
