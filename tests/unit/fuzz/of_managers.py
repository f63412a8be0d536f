"""Target: the files of other network managers, through to the notes of a check and the comments of an import."""

from __future__ import annotations

from tests.unit.fuzz.mutation import by_records
from tests.unit.fuzz.target import Broken, Target
from xennetd.daemon.managers import read_claims
from xennetd.daemon.managers.host_files import HostFiles
from xennetd.model.link_objects import HostLink
from xennetd.model.topology import Topology, TopologyLink
from xennetd.policy.coexistence import rivalries
from xennetd.render.topology_toml import topology_toml

_NEXT = b"%%%"
"""Between two files of an input."""

_FILES: dict[str, bytes] = {
    "/etc/network/interfaces": b"auto br0\niface br0 inet static\n bridge_ports eth0\nsource interfaces.d/*\n",
    "/etc/network/interfaces.d/more": b"iface eth0 inet dhcp\n bond-master bond0\n",
    "/run/network/ifstate": b"eth0=home\n",
    "/run/systemd/netif/links/2": b"ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/20-br0.network\n",
    "/run/systemd/netif/links/3": b"ADMIN_STATE=configured\nNETWORK_FILE=/run/systemd/network/10-netplan-a.network\n",
    "/etc/systemd/network/20-br0.network": b"[Network]\nDHCP=yes\nBridge=br0\nKeepMaster=no\n[Address]\nAddress=a\n",
    "/etc/systemd/network/20-br0.netdev": b"[NetDev]\nName=br0\n",
    "/etc/netplan/a.yaml": b"network:\n  bridges:\n    a:\n",
    "/run/NetworkManager/devices/2": b"[device]\nmanaged=true\nconnection-uuid=u1\n",
    "/etc/NetworkManager/system-connections/a": b"[connection]\nuuid=u1\nmaster=u1\ntype=bridge\ninterface-name=br0\n",
}
_LINES = tuple(line for text in _FILES.values() for line in text.splitlines())
_TOPOLOGY = Topology((TopologyLink("bridge", "br0", ("eth0",)),))


class _Files(HostFiles):
    """The files of an input in their places."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        texts = (each.decode(errors="replace") for each in data.split(_NEXT))
        self._texts = dict(zip(_FILES, texts, strict=False))

    def read(self, path: str) -> str:
        return self._texts.get(path, "")

    def list(self, directory: str) -> list[str]:
        return sorted(path for path in self._texts if path.rpartition("/")[0] == directory)

    def exists(self, path: str) -> bool:
        return True


def run_managers(data: bytes) -> None:
    """Read the claims; whatever they say, a note is one line and an import says the same."""
    claims = read_claims({2: "eth0", 3: "br0"}, _Files(data))
    list(rivalries(_TOPOLOGY, claims))
    links = [HostLink("bridge", "br0")]
    lines = topology_toml(links, [], {}, {}, claims).splitlines()
    if [line for line in lines if not line.startswith("#")] != topology_toml(links, [], {}, {}).splitlines():
        raise Broken(f"{lines} is another configuration")


MANAGERS = (
    Target("manager-files", run_managers, (), lambda: [_NEXT.join(_FILES.values())], by_records(b"\n", _LINES), 0.03,
           _NEXT),
)  # fmt: skip
