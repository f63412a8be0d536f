"""Golden plans: what xennetd does on a host for each file of conf/examples, as texts that a person can review.

`tests/golden/NAME.txt` is the whole plan from an empty host, `tests/golden/NAME.changes.txt` what a reload does after
each change of a single key. tests/unit/test_golden.py compares; `python -m tests.golden` writes the files anew.
"""
