"""What xennetctl shows to people and gives to programs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest

from tests.unit.control.bed import Served, row
from tests.unit.control.command import HOSTILE, Run, command, on_terminal, uncoloured
from xennetd.cli.spans import age, duration, printable, span_of_time, table
from xennetd.model.event import Event, EventKind
from xennetd.model.value import replace
from xennetd.model.vif import VifId


def test_list(served: Served, run: Run) -> None:
    now = time.time()
    served.daemon.rows = [
        row(3, vm="web-1", since=now - 200, ips=["10.0.0.3", "fd00::3"], network="lan", vlan="20"),
        row(7, 1, vm="db", since=now - 7300, state="error", bridge="xenbr9", error="there is no bridge xenbr9"),
        row(9, vm=None, mac=None, since=0, state="pending", reason="waiting for the link vif9.0", pinned=True),
    ]
    status, out, _ = run("list")
    assert status == 0
    assert out == (
        "VIF     VM     STATE      NETWORK  BRIDGE  VLAN  MAC                IPS               AGE  NOTE\n"
        "vif3.0  web-1  connected  lan      xenbr0  20    00:16:3e:00:00:03  10.0.0.3,fd00::3  3m   -\n"
        "vif7.1  db     error      -        xenbr9  -     00:16:3e:00:00:07  -                 2h   "
        "there is no bridge xenbr9\n"
        "vif9.0  -      pending    -        xenbr0  -     -                  -                 -    pinned\n"
    )


def test_list_of_nothing_is_its_header(served: Served, run: Run) -> None:
    served.daemon.rows = []
    assert run("list")[:2] == (0, "VIF  VM  STATE  NETWORK  BRIDGE  VLAN  MAC  IPS  AGE  NOTE\n")
    assert json.loads(run("list", "--json")[1]) == []


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--state", "error"], ["vif7.1"]),
        (["--state", "error", "--state", "pending"], ["vif7.1", "vif9.0"]),
        (["--vm", "web-*"], ["vif3.0"]),
        (["--vm", "db", "--state", "connected"], ["vif7.0"]),
        (["--vm", "nobody"], []),
    ],
)
def test_list_filters(filters: list[str], expected: list[str], served: Served, run: Run) -> None:
    assert [vif["vif"] for vif in json.loads(run("list", "--json", *filters)[1])] == expected
    assert [line.split()[0] for line in run("list", *filters)[1].splitlines()[1:]] == expected


def test_list_json_is_a_list_of_objects_one_a_line(served: Served, run: Run) -> None:
    status, out, _ = run("list", "--json")
    keys = "vif domid devid vm uuid mac ips network mode bridge vlan state error since"
    assert status == 0
    assert all({*keys.split()} <= set(vif) for vif in json.loads(out))
    assert [json.loads(line.rstrip(","))["vif"] for line in out.splitlines()[1:-1]] == [
        vif.vif for vif in served.daemon.rows
    ]


def test_show(served: Served, run: Run) -> None:
    served.daemon.rows = [
        replace(
            row(7, vm="db", ips=["10.0.0.7"], since=time.time() - 5000, network="lan", policy="databases", vlan="20"),
            state="error",
            error="there is no bridge xenbr0",
            tap="connected",
            warnings=["its MTU is above the bridge's"],
        )
    ]
    message = "vif7.0 of db attached to xenbr0 in 1.2 ms"
    served.record(Event(EventKind.ATTACH, message, VifId(7, 0), duration_us=1234, realtime_us=1))
    served.record(Event(EventKind.ATTACH, "another's", VifId(8, 0)))
    status, out, _ = run("show", "db")
    assert status == 0
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(0))
    assert out == (
        "vif7.0       error for 1h 23m\n"
        "Error        there is no bridge xenbr0\n"
        "Warning      its MTU is above the bridge's\n"
        "Domain       db (domid 7, 0f8e7c1a-36f5-4a5f-9d5c-000000000007)\n"
        "Link         vif7.0 (index 107, mtu 1500)\n"
        "Tap          connected\n"
        "Network      lan (bridge)\n"
        "Bridge       xenbr0\n"
        "VLAN         20\n"
        "MAC          00:16:3e:00:00:07\n"
        "IPs          10.0.0.7\n"
        "Policy       databases\n"
        "Script       /etc/xen/scripts/vif-xennetd\n"
        "Attached in  512 µs\n"
        "\n"
        "Latest events\n"
        f"{when}.000  attach    {message}\n"
    )


def test_show_says_what_a_vif_waits_for(served: Served, run: Run) -> None:
    assert "Why          no link vif9.0 yet\n" in run("show", "a/b")[1]


def test_show_says_how_a_pin_ends(served: Served, run: Run) -> None:
    served.daemon.rows = [row(7, pinned=True, reason="pinned: xennetd does not touch it until unpin")]
    out = run("show", "7.0")[1]
    assert "Pinned       xennetd does not touch it until: xennetctl unpin vif7.0\n" in out
    assert out.count("until") == 1


def test_show_json(served: Served, run: Run) -> None:
    served.record(Event(EventKind.DRIFT, "vif7.0 was put back", VifId(7, 0)))
    shown = json.loads(run("show", "7.0", "--json")[1])
    assert (shown["vif"], shown["bridge"], shown["events"][0]["event"]) == ("vif7.0", "xenbr0", "drift")


def test_status_with_problems_shows_them_first_and_exits_1(served: Served, run: Run) -> None:
    status, out, _ = run("status")
    assert status == 1
    assert out.startswith("! vif7.1 of db: there is no bridge xenbr9\n\nxennetd   1.2, ready\n")
    assert "Vifs      4 in all, 1 pending, 2 connected, 1 error\n" in out
    assert "Network   lan: bridge, xenbr0, 3 vifs\n" in out
    assert "Network   lab: nat, xn-lab, 10.77.0.0/24, via eth9, 1 vif, not ready\n" in out
    assert "Policy    /etc/xennetd/xennetd.toml\n" in out


def test_status_when_all_is_well(served: Served, run: Run) -> None:
    served.daemon.rows = [row(3), row(4, pinned=True)]
    status, out, _ = run("status")
    assert status == 0
    assert out.startswith("- vif4.0 is pinned: xennetd does not touch it until unpin\n\nxennetd ")


def test_status_shows_notes_after_problems(served: Served, run: Run) -> None:
    served.daemon.rows[0] = row(3, pinned=True)
    status, out, _ = run("status")
    assert status == 1
    assert out.startswith(
        "! vif7.1 of db: there is no bridge xenbr9\n- vif3.0 is pinned: xennetd does not touch it until unpin\n\n"
    )


def test_status_json(served: Served, run: Run) -> None:
    status, out, _ = run("status", "--json")
    assert status == 1
    assert json.loads(out)["counts"]["connected"] == 2


def test_on_a_terminal_states_have_colours_and_lines_end_where_it_ends(served: Served, path: str) -> None:
    served.daemon.rows.append(row(12, vm="long", state="error", error="x" * 300))
    out = on_terminal(path, "list", columns=70)
    assert "\x1b[32mconnected" in out
    assert "\x1b[1;31merror" in out
    lines = uncoloured(out).splitlines()
    assert max(map(len, lines)) == 70
    assert lines[-1].endswith("x…")
    assert lines[0].split() == ["VIF", "VM", "STATE", "BRIDGE", "AGE", "NOTE"], "empty or too wide: left out"
    assert "MAC" in uncoloured(on_terminal(path, "list", columns=120))


def test_a_long_sentence_is_left_to_the_terminal_to_wrap(served: Served, path: str) -> None:
    sentence = "there is no bridge of this name " * 8
    served.daemon.rows = [row(7, state="error", error=sentence.strip())]
    assert sentence.strip() in on_terminal(path, "show", "7.0", columns=50)


def test_colours_can_be_refused(served: Served, path: str) -> None:
    assert "\x1b" not in on_terminal(path, "list", TERM="dumb")
    assert "\x1b[3" not in on_terminal(path, "list", NO_COLOR="1")


@pytest.mark.parametrize("where", ["a pipe", "a terminal"])
@pytest.mark.parametrize(
    "verb", [["list"], ["show", "vif7.0"], ["status"], ["list", "--json"], ["show", "7.0", "--json"]], ids=" ".join
)
def test_nothing_from_a_guest_reaches_the_terminal_raw(
    verb: list[str], where: str, served: Served, run: Run, path: str
) -> None:
    names = ("vm", "uuid", "mac", "network", "bridge", "vlan", "error", "reason", "policy", "link", "tap", "script")
    values: dict[str, Any] = dict.fromkeys(names, HOSTILE)
    served.daemon.rows = [row(7, ips=[HOSTILE], warnings=[HOSTILE], state="error", **values)]
    served.record(Event(EventKind.ERROR, HOSTILE, VifId(7, 0)))
    out = run(*verb)[1] if where == "a pipe" else uncoloured(on_terminal(path, *verb, columns=1000))
    assert "evil" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert "\n\x07" not in out
    assert "[bold]" in out, "no markup either"


def test_text_that_the_locale_cannot_show_is_escaped(served: Served, path: str) -> None:
    served.daemon.rows = [row(7, vm="bücher")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command(path, "list"), capture_output=True, text=True, env=environment)
    assert "b\\xfccher" in done.stdout
    assert done.returncode == 0


def test_ages() -> None:
    assert [age(s) for s in (-1, 0, 59, 60, 3599, 3600, 86399, 86400, 9e6)] == [
        "0s", "0s", "59s", "1m", "59m", "1h", "23h", "1d", "104d",
    ]  # fmt: skip
    assert [span_of_time(s) for s in (5, 60, 61, 3600, 5000, 90000)] == ["5s", "1m", "1m 1s", "1h", "1h 23m", "1d 1h"]
    assert [duration(us) for us in (0, 999, 1000, 1_500_000)] == ["0 µs", "999 µs", "1.0 ms", "1.5 s"]


def test_printable_keeps_what_is_harmless() -> None:
    assert printable("wéb-1 [x] \\") == "wéb-1 [x] \\"
    assert printable(HOSTILE + "\ud800") == "evil\\x1b[2J\\n\\x07\\x9b1m\\u202e\\x7f[bold]\\ud800"


def test_a_table_gives_up_columns_in_order_before_it_cuts() -> None:
    header, rows = ["A", "B", "C", "LAST"], [[("aaaa", ""), ("bbbb", ""), ("-", ""), ("last", "")]]

    def texts(width: int | None) -> list[str]:
        return ["".join(text for text, _ in line) for line in table(header, rows, width, ("B", "C"))]

    assert texts(None) == ["A     B     C  LAST", "aaaa  bbbb  -  last"]
    assert texts(40) == ["A     B     LAST", "aaaa  bbbb  last"]
    assert texts(12) == ["A     LAST", "aaaa  last"]
    assert texts(8) == ["A     L…", "aaaa  l…"]
    assert texts(5) == ["A   …", "aaaa…"]

    rows[0][3] = ("a long sentence that may be cut, so that it costs no column", "")
    assert texts(44)[0].split() == ["A", "B", "LAST"]


def test_every_state_and_event_can_be_shown_on_a_terminal(served: Served, path: str) -> None:
    everything = [row(n, state=s, pinned=True, error="e" if s == "error" else None, tap="error: x", warnings=["w"])
                  for n, s in enumerate(("pending", "connected", "error", "detaching", "ignored"))]  # fmt: skip
    served.daemon.rows = everything
    for kind in EventKind:
        served.record(Event(kind, f"this is {kind.label}", VifId(2, 0)))
    for verb in (["list"], ["status"], ["show", "vif2.0"]):
        assert "vif2.0" in on_terminal(path, *verb, columns=200)
