"""The file and line that come before what `check` says of a setting."""

from __future__ import annotations

from ipaddress import IPv4Interface

from xennetd.model.configuration import Policy
from xennetd.policy.check import check
from xennetd.policy.host_notes import HostNotes
from xennetd.policy.load import load
from xennetd.policy.note_places import placed

FIRST = b"""\
[network.lab]
mode = "nat"
subnets = ["1.0.0.0/8",
           "fd00:0:0:77::/64"]
dhcp = true
domain = "com"
uplink = "eth7"

[[network.lab.forward]]
proto = "tcp"
port = 80
to = "web:80"

[[network.lab.forward]]
proto = "tcp"
port = 22
to = "web:22"

[[policy]]
network = "lab"
match.vm = "web"
ip = ["1.0.0.5"]
"""

SECOND = b"""\
[daemon]
control = "/etc/passwd"

[network]
store = { mode = "isolated", subnets = ["10.1.0.0/24"] }
lan = { mode = "bridge", bridge = "xenbr7" }

[[policy]]
match.vm = "db"
network = "store"

[[policy]]
match.vm = "web"
deny = "no"
"""

HOST = HostNotes(
    links=frozenset({"eth0", "xn-store"}),
    bridges=frozenset(),
    addresses={"eth0": (IPv4Interface("10.1.0.9/16"),)},
    listening=frozenset({("tcp", 22)}),
    exposed=("/etc/xennetd: everyone may write to it",),
    no_control="/etc is no place for sockets",
)

FOUND = """\
b.toml:2: daemon.control: the socket can't be at
/etc/xennetd: everyone may write to it
b.toml:5: network "store": subnet 10.1.0.0/24 overlaps
b.toml:5: network "store": link "xn-store" exists
a.toml:7: network "lab": uplink "eth7" does not exist
a.toml:3: network "lab": subnet 1.0.0.0/8 is so wide
a.toml:6: network "lab": domain "com" may be
a.toml:14: network "lab": forward of tcp port 22:
a.toml:3: network "lab": guests can't reach the outside by IPv6
b.toml:6: network "lan": bridge "xenbr7" does not exist
b.toml:6: network "lan": no policy uses it
b.toml:12: policy "policy 3" never applies
a.toml:19: policy "policy 1" fixes an address
"""


def test_a_sentence_about_a_setting_has_its_file_and_line() -> None:
    files = [("a.toml", FIRST), ("b.toml", SECOND)]
    policy = load(files)
    assert isinstance(policy, Policy), policy
    found, wanted = placed(check(policy, HOST), files), FOUND.splitlines()
    assert len(found) == len(wanted), "\n".join(found)
    for sentence, start in zip(found, wanted, strict=True):
        assert sentence.startswith(start)
