"""The benchmark: Xen's stock script and xennetd side by side, in one run, on the real kernel and the real xenstored.

    python -m tests.bench [--quick] [--json FILE] [--readme]

Rule 1: interleaved. Each round measures both, so that a machine's good and bad minutes go to both alike.
Rule 2: neither pays for the other. While the stock script is measured xennetd is stopped (SIGSTOP); while xennetd is
measured no script runs but its own.
Rule 3: the clock is never in our favour. Ours starts before `state=2` is sent, the stock script's when it is executed;
both end when the event for `hotplug-status` reaches a watcher, whose value is looked at after that.

    table.py    `Row`, `Aim`, and the table as text, as Markdown in the README, and as JSON
    stage.py    `Stage`: a host with xenstored and xennetd, and what it takes to play one vif or a thousand
    single.py   one vif at a time: attach, detach, the script, and what an attach is made of
    modes.py    one attach in each mode
    burst.py    hundreds of vifs at once
    many.py     a thousand vifs: start, idle, and one more attach
    suite.py    `Scale`: how much of it all; `run`

There is no journald in the stage: what xennetd records goes to its standard error, which costs it a little more.
"""
