"""Configuration text to policy, and the problems an administrator is shown."""

import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xennetd.config.document import LARGEST
from xennetd.config.problem import Problem
from xennetd.model.configuration import DaemonConfig, Match, Network, Policy, Rule
from xennetd.policy.load import load
from xennetd.policy.modes import BRIDGE

LAN = Network("lan", BRIDGE, "xenbr0")
NETWORK = '[network.lan]\nmode = "bridge"\nbridge = "xenbr0"\n'


def policy(*texts: str) -> Policy:
    result = load([(f"{i}.toml", text.encode()) for i, text in enumerate(texts)])
    assert isinstance(result, Policy), [problem.describe() for problem in result]
    return result


def lines(*texts: str | bytes) -> list[str]:
    """Return what is reported about files called 0.toml, 1.toml and so on."""
    sources = [(f"{i}.toml", text.encode() if isinstance(text, str) else text) for i, text in enumerate(texts)]
    result = load(sources)
    assert not isinstance(result, Policy)
    return [problem.describe() for problem in result]


def test_no_file_and_an_empty_file_are_the_defaults() -> None:
    assert load([]) == Policy()
    assert policy("") == Policy(files=("0.toml",))


def test_everything_that_can_be_said() -> None:
    loaded = policy(
        """
        [daemon]
        mode = "observe"
        control = "/run/x"
        apply = "on-reload"
        scripts = ["vif-xennetd*", "vif-ours"]
        hooks = true
        stand_in = true
        [network.lan]
        mode = "bridge"
        bridge = "xenbr0"
        [[policy]]
        name = "web tier"
        network = "lan"
        [policy.match]
        vm = "web-*"
        uuid = "9F6C*"
        mac = "00:16:3E:*"
        bridge = "xenbr*"
        type = "vif"
        devid = 0
        domid = 7
        [[policy]]
        match.script = "vif-bridge"
        deny = "use vif-xennetd"
        """
    )
    scripts = ("vif-xennetd*", "vif-ours")
    assert loaded.daemon == DaemonConfig("observe", "/run/x", "on-reload", scripts, hooks=True, stand_in=True)
    assert loaded.networks == {"lan": LAN}
    assert loaded.rules == (
        Rule("web tier", Match("web-*", "9f6c*", "00:16:3e:*", "xenbr*", None, "vif", 0, 7), network=LAN),
        Rule("policy 2", Match(script="vif-bridge"), deny="use vif-xennetd"),
    )


def test_a_rule_without_match_is_a_catch_all() -> None:
    assert policy("[[policy]]\ndeny = 'no'").rules == (Rule("policy 1", Match(), deny="no"),)


def test_files_merge_in_order() -> None:
    loaded = policy(
        "[daemon]\nhooks = true\n[[policy]]\nname = 'first'\nnetwork = 'lan'",
        "[daemon]\nmode = 'observe'\n" + NETWORK + "[[policy]]\ndeny = 'no'",
    )
    assert loaded.daemon == DaemonConfig(mode="observe", hooks=True)
    assert loaded.rules == (Rule("first", Match(), network=LAN), Rule("policy 2", Match(), deny="no"))
    assert loaded.files == ("0.toml", "1.toml")


def test_a_misspelt_key() -> None:
    assert lines(NETWORK + "[[policy]]\nnetwork = 'lan'\n[policy.match]\nvmm = 'a'") == [
        '0.toml:7: policy[1].match.vmm: unknown key; did you mean "vm"? '
        "(allowed: vm, uuid, mac, bridge, script, type, devid, domid)"
    ]


def test_a_misspelt_value() -> None:
    assert lines("[daemon]\n\nmode = 'enforced'") == [
        '0.toml:3: daemon.mode: not valid, found "enforced"; did you mean "enforce"? (allowed: enforce, observe)'
    ]


def test_a_key_in_capitals() -> None:
    (line,) = lines("[daemon]\nMODE = 'enforce'")
    assert 'did you mean "mode"?' in line


def test_a_misspelt_section() -> None:
    sections = "daemon, network, policy, nic, bond, vlan, bridge, vxlan, dummy"
    assert lines("[deamon]\nmode = 'enforce'") == [
        f'0.toml:1: deamon: unknown section; did you mean "daemon"? (allowed: {sections})'
    ]


def test_a_misspelt_network() -> None:
    assert lines(NETWORK + "[network.lab]\nmode = 'bridge'\nbridge = 'b'", "[[policy]]\nnetwork = 'lann'") == [
        '1.toml:2: policy[1].network: no such network, found "lann"; did you mean "lan"? (allowed: lab, lan)'
    ]
    assert lines("[[policy]]\nnetwork = 'lan'") == ['0.toml:2: policy[1].network: no network is defined, found "lan"']


def test_a_network_that_is_not_whole() -> None:
    assert lines("[network.lan]\n[[policy]]\nnetwork = 'lan'") == [
        "0.toml:1: network.lan.mode: missing (allowed: bridge, route, nat, isolated)"
    ]
    assert lines("[network.lan]\nmode = 'bridge'") == [
        "0.toml:1: network.lan.bridge: missing (allowed: a link's name, 1 to 15 characters)"
    ]


def test_all_problems_of_all_files_are_reported_in_their_order() -> None:
    reported = lines(
        "[daemon]\nhooks = 'yes'\ndevd = 1\n[[policy]]\nnetwork = 'x'\ndeny = 'y'\n[[policy]]\n" + NETWORK,
        "x = ",
        "[daemon]\nscripts = ['ok', 'a/b', 3]",
    )
    assert [line.split(": ")[0] for line in reported] == [
        *("0.toml:2", "0.toml:3", "0.toml:4", "0.toml:7", "1.toml:1", "2.toml:2", "2.toml:2")
    ]


def test_a_broken_file_is_not_blamed_on_those_that_need_it() -> None:
    assert len(lines("[[policy]]\nnetwork = 'lan'", NETWORK + "x")) == 1
    unread = (Problem("conf.d/lan.toml", "can't be read"),)
    assert load([("a", b"[[policy]]\nnetwork = 'lan'")], unread) == unread


def test_what_two_files_say_names_both() -> None:
    assert lines("[daemon]\nmode = 'observe'\n" + NETWORK, "[daemon]\nmode = 'observe'\n" + NETWORK) == [
        "1.toml:2: daemon.mode: given already at 0.toml:2",
        "1.toml:3: network.lan: given already at 0.toml:3",
    ]


def test_two_policies_of_one_name() -> None:
    assert lines("[[policy]]\ndeny = 'a'\n[[policy]]\nname = 'policy 1'\ndeny = 'b'") == [
        "0.toml:4: policy[2].name: given already at 0.toml:1"
    ]


def test_network_and_deny() -> None:
    assert lines(NETWORK + "[[policy]]\nnetwork = 'lan'\ndeny = 'no'\n[[policy]]\nname = 'x'") == [
        "0.toml:4: policy[1]: has both network and deny; a policy needs exactly one of them",
        "0.toml:7: policy[2]: lacks network or deny; a policy needs exactly one of them",
    ]


def test_single_brackets_around_policy() -> None:
    assert lines("[policy]\ndeny = 'x'") == ["0.toml:1: policy: must be written as [[policy]], found a table"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("daemon = 3", "daemon: must be written as [daemon], found 3"),
        ("network = []", "network: must be written as [network.NAME], found an array"),
        ("[network]\nlan = 'xenbr0'", 'network.lan: must be written as [network.lan], found "xenbr0"'),
        ("policy = ['x']", 'policy[1]: must be written as [[policy]], found "x"'),
        ("daemon.hooks = 0", "daemon.hooks: not valid, found 0 (allowed: true or false)"),
        ("daemon.scripts = []", "daemon.scripts: must be a non-empty array, found an empty array"),
        ("daemon.scripts = 'vif-*'", 'daemon.scripts: must be a non-empty array, found "vif-*"'),
        ("daemon.scripts = ['']", 'daemon.scripts[1]: not valid, found ""'),
        ("daemon.scripts = ['/etc/xen/scripts/vif']", 'daemon.scripts[1]: not valid, found "/etc/xen/scripts/vif"'),
        ("daemon.control = 'run/x'", 'daemon.control: not valid, found "run/x"'),
        ("daemon.control = '/run/'", "daemon.control: not valid"),
        (f"daemon.control = '/{'x' * 107}'", "daemon.control: not valid"),
        (f"daemon.control = '/{'ü' * 54}'", "daemon.control: not valid"),
        (r'daemon.control = "/a\u0000b"', r'daemon.control: not valid, found "/a\x00b"'),
        ("network.lan = {mode='bridge', bridge='a/b'}", 'network.lan.bridge: not valid, found "a/b"'),
        (
            "network.lan = {mode='bridged', bridge='b'}",
            'network.lan.mode: not valid, found "bridged"; did you mean "bridge"? (allowed: bridge, route, nat, iso',
        ),
        ("network.'a\u202eb' = {mode='bridge', bridge='b'}", r'network."a\u202eb": not valid, found "a\u202eb"'),
        ("policy = [{match=1, deny='x'}]", "policy[1].match: not valid, found 1"),
        ("policy = [{match={mac='00-16-*'}, deny='x'}]", 'policy[1].match.mac: can never match, found "00-16-*"'),
        ("policy = [{match={uuid='web-*'}, deny='x'}]", 'policy[1].match.uuid: can never match, found "web-*"'),
        (
            "policy = [{match={type='vif_emu'}, deny='x'}]",
            'policy[1].match.type: can never match, found "vif_emu"; did you mean "vif_ioemu"?',
        ),
        ("policy = [{match={vm=''}, deny='x'}]", 'policy[1].match.vm: not valid, found ""'),
        ("policy = [{match={vm=7}, deny='x'}]", "policy[1].match.vm: not valid, found 7"),
        ("policy = [{match={devid='0'}, deny='x'}]", 'policy[1].match.devid: not valid, found "0"'),
        ("policy = [{match={devid=-1}, deny='x'}]", "policy[1].match.devid: not valid, found -1"),
        ("policy = [{match={domid=true}, deny='x'}]", "policy[1].match.domid: not valid, found true"),
        ("policy = [{match={domid=32752}, deny='x'}]", "policy[1].match.domid: not valid, found 32752"),
        ("policy = [{deny=''}]", 'policy[1].deny: not valid, found ""'),
        (r'policy = [{deny="a\nb"}]', r'policy[1].deny: not valid, found "a\nb"'),
        ("policy = [{deny=' '}]", 'policy[1].deny: not valid, found " "'),
        (f"policy = [{{deny='{'x' * 201}'}}]", "policy[1].deny: not valid"),
        (f"policy = [{{match={{devid=0x{'f' * 5000}}}, deny='x'}}]", "policy[1].match.devid: not valid, found a huge"),
    ],
)
def test_a_wrong_value(text: str, found: str) -> None:
    (line,) = lines(text)
    assert line.startswith(("0.toml:1: " + found, "0.toml:2: " + found))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"[daemon]\nmode = observe\n", "0.toml:2:8: not TOML: invalid value, found `mode = observe`"),
        (b"[daemon]\n[daemon]\n", "0.toml:2:8: not TOML: cannot declare ('daemon',) twice, found `[daemon]`"),
        (b"a = 'x\n\n", "0.toml:1: not TOML: "),
        (b"\n\na = [", "0.toml:3: not TOML: "),
        (b"a = 1\rb", r"0.toml:1:6: not TOML: expected newline or end of document after a statement, found `a = 1\rb`"),
        (b"a = 1" + b"0" * 5000, "0.toml: not TOML: Exceeds the limit"),
        (b"a = " + b"[" * 5000, "0.toml: not a configuration: arrays or tables are nested too deeply"),
        (b"\n[" + b". ".join([b"a"] * 5_000) + b"]", "0.toml:2: a key of more than 128 parts"),
        (b"\n" + b".".join([b"a", b'"b c"', b"'d'"] * 50) + b" = 1", "0.toml:2: a key of more than 128 parts"),
        (b"\xef\xbb\xbf[daemon]", "0.toml:1:1: starts with a byte order mark; save it as UTF-8 without one"),
        (b"# a\n# \xfc", "0.toml:2: not UTF-8, found byte 0xfc"),
        ("[daemon]".encode("utf-16-le"), "0.toml:1: holds a NUL byte; it must be TOML in UTF-8"),
        (b"#" * (LARGEST + 1), f"0.toml: larger than a configuration may be ({LARGEST} bytes)"),
    ],
)
def test_what_is_no_configuration_at_all(text: bytes, found: str) -> None:
    (line,) = lines(text)
    assert line.startswith(found)


def test_driver_domains_have_no_names_to_match() -> None:
    rules = "[[policy]]\nmatch = { vm = 'a' }\ndeny = 'x'\n[[policy]]\nmatch.uuid = '*'\ndeny = 'x'\n"
    assert lines("[daemon]\ndevd = true\n" + rules) == [
        "0.toml:4: policy[1].match.vm: can't be read in a driver domain (daemon.devd is true)",
        "0.toml:7: policy[2].match.uuid: can't be read in a driver domain (daemon.devd is true)",
    ]
    assert policy("[daemon]\ndevd = true\n[[policy]]\nmatch = { mac = '*' }\ndeny = 'x'").daemon.devd


FRAGMENTS = st.sampled_from(
    [
        *("[daemon]", "[network.lan]", "[network]", "[[policy]]", "[policy.match]", "[policy]", "[x]", "match = {}"),
        *("mode = 'bridge'", "mode = 'observe'", "bridge = 'b'", "vm = '*'", "network = 'lan'", "deny = 'no'"),
        *(
            "mode = 'nat'",
            "mode = 'route'",
            "mode = 'isolated'",
            "[network.lab]",
            "[[network.lan.forward]]",
            "proxy = true",
        ),
        *("subnets = ['10.0.0.0/8', 'fd77::/64']", "subnets = ['10.1.0.0/16']", "dhcp = true", "nptv6 = 'fd78::/64'"),
        *(
            "ip = ['10.1.2.3', 'fd77::3']",
            "port = 80\nproto = 'tcp'",
            "to = 'a:1'",
            "to = '[fd77::3]:1'",
            "uplink = 'b'",
        ),
        *("devd = true", "mac = '['", "scripts = [[]]", "devid = 1", "name = 'a'", 'hooks = "\x7f"', "'' = nan"),
    ]
)


@given(st.lists(st.one_of(st.lists(FRAGMENTS).map(lambda parts: "\n".join(parts).encode()), st.binary()), max_size=3))
def test_any_text_is_a_policy_or_problems_in_one_printable_line_each(texts: list[bytes]) -> None:
    result = load([(f"{i}.toml", text) for i, text in enumerate(texts)])
    if isinstance(result, Policy):
        for text in texts:
            tomllib.loads(text.decode())
    else:
        assert result
        assert all(problem.describe().isprintable() for problem in result)


def test_reading_a_good_configuration_imports_nothing_slow() -> None:
    program = (
        "import sys; import xennetd.policy.files, xennetd.policy.resolve, xennetd.policy.check as c\n"
        "from xennetd.policy.load import load; assert not isinstance(load([('a', b'[daemon]')]), tuple)\n"
        "sys.exit(', '.join({'difflib', 'asyncio', 'socket', 'logging', 'rich', 'pyroute2'} & sys.modules.keys()) or 0)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-S", "-c", program], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_name_of_any_length_makes_no_long_line() -> None:
    (line,) = lines("a" * 5000 + " = 1")
    assert len(line) < 200


def test_a_reverse_domain_is_no_key_of_many_parts() -> None:
    zone = ".".join("0" * 32) + ".ip6.arpa"
    assert policy(f'# {zone}\n[[policy]]\ndeny = "{zone}"\n').rules[0].deny == zone
