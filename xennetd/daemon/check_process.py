"""Checks the configuration files in a process of its own, so that the daemon serves guests meanwhile.

A check of 2,000 rules takes a sixth of a second of processor time. On the daemon's loop it would stop everything for as
long. In a thread it would hold the interpreter's lock, and a piece of work that takes the loop 0.3 ms would take up to
57 ms. A fork of the daemon would delay the loop the longer the more memory the daemon has. A new program takes a third
of a second, and delays the loop by the milliseconds that its start takes.
"""

from __future__ import annotations

import json
import sys

from xennetd.daemon.host_checks import all_host_notes
from xennetd.model.configuration import Policy
from xennetd.model.errors import HostError
from xennetd.model.text import visible
from xennetd.policy.check import check, errors_of, remarks_of
from xennetd.policy.files import read_files
from xennetd.programs import NotRun, cause_of_end, run

Checked = tuple[list[str], list[str]]
"""Sentences: the problems, and the notes on what may be unintended."""

_TIMEOUT = 60.0
"""Seconds that a check may take."""

# -I: neither the environment nor the working directory may choose the modules that root runs.
_PROGRAM = (sys.executable, "-I", "-c")
_MAIN = "import sys; sys.path[:] = sys.argv[2:]; from xennetd.daemon.check_process import main; main(sys.argv[1])"


async def check_apart(config: str | None) -> Checked:
    """Return `check_files` of a new process. Raises HostError when that process can't be run or fails."""
    failure = "the configuration can't be checked: the process that was to do it"
    try:
        ended = await run((*_PROGRAM, _MAIN, config or "", *sys.path), _TIMEOUT, {})
    except NotRun as error:
        raise HostError(f"{failure} {error}") from error
    if ended.status:
        last = visible(ended.errors.decode(errors="replace").strip().rpartition("\n")[2], 200)
        said = f": {last}" if last else ""
        raise HostError(f"{failure} has ended with {cause_of_end(ended.status)}{said}")
    problems, notes = json.loads(ended.output)
    return problems, notes


def check_files(config: str | None) -> Checked:
    """Return the problems and notes of the file `config`, or of the default files, as they are on disk now."""
    files = read_files(config)
    policy = files.load()
    if not isinstance(policy, Policy):
        return [problem.describe() for problem in policy], []
    notes = check(policy, all_host_notes(policy))
    return files.placed(errors_of(notes)), files.placed(remarks_of(notes))


def main(config: str) -> None:
    """Print the result of `check_files` as JSON. An empty `config` stands for the default files."""
    print(json.dumps(check_files(config or None)))
