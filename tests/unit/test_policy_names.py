"""The names of guests in DHCP and DNS: what becomes of a VM's name, and who has a name that two VMs lead to."""

from __future__ import annotations

import pytest

from tests.bed.dhcp import network
from tests.unit.hosts import TableHost, nobody
from xennetd.model.attachment import Attachment
from xennetd.model.configuration import Match, Policy, Rule
from xennetd.model.link import Link
from xennetd.model.marks import BRIDGE_GROUP
from xennetd.model.objects import DhcpHost
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.policy.network_needs import compile_ruleset
from xennetd.policy.resolve import resolve

LAB = network("lab")
POLICY = Policy(networks={"lab": LAB}, rules=(Rule("lab", Match(), LAB),), ruleset=compile_ruleset((LAB,)))
HOST = TableHost((Link(2, "xn-lab", "bridge", group=BRIDGE_GROUP),))


def vif(domid: int, vm: str | None, devid: int = 0, uuid: str | None = None) -> Vif:
    return Vif(
        VifId(domid, devid),
        XenbusState.INIT_WAIT,
        online=True,
        script="/etc/xen/scripts/vif-xennetd",
        mac=f"00:16:3e:00:{devid:02x}:{domid:02x}",
        vm=vm,
        uuid=uuid or f"00000000-0000-0000-0000-{domid:012}",
    )


class Guests:
    """The guests of the network lab, as the daemon registers them."""

    def __init__(self) -> None:
        self.registry = nobody()
        self._connected: set[VifId] = set()

    def attach(self, vif: Vif) -> tuple[str | None, tuple[str, ...]]:
        """Attach a guest, or decide it anew. Returns its name in dnsmasq and its warnings."""
        connected = vif.id in self._connected
        self.registry.meet(vif.id, connected=connected, in_service=connected)
        attachment = resolve(POLICY, vif, HOST, self.registry).outcome
        assert isinstance(attachment, Attachment), attachment
        self.registry.set(vif, f"vif{vif.id.domid}.{vif.id.devid} of {vif.vm}", attachment, connected=True)
        self._connected.add(vif.id)
        (host,) = (need for need in attachment.needs if isinstance(need, DhcpHost))
        return host.name, attachment.warnings


@pytest.mark.parametrize(
    ("vm", "name"), [("web_1", "web-1"), ("host.example.com", "host"), ("Web 1", "web-1"), ("_web", "web")]
)
def test_a_name_that_is_no_label_is_made_one_and_noted(vm: str, name: str) -> None:
    note = f'the VM\'s name "{vm}" is no DNS label: the guest is {name}.lab.internal in DHCP and DNS'
    assert Guests().attach(vif(1, vm)) == (f"{name}.lab.internal", (note,))


@pytest.mark.parametrize("vm", ["web-1", "WEB-1", "7"])
def test_a_label_needs_no_note(vm: str) -> None:
    assert Guests().attach(vif(1, vm)) == (f"{vm.lower()}.lab.internal", ())


def test_where_no_label_can_be_made_the_guest_has_no_name() -> None:
    note = 'the VM\'s name "___" makes no DNS name: the guest has none'
    assert Guests().attach(vif(1, "___")) == (None, (note,))
    assert Guests().attach(vif(2, None)) == (None, ())  # In a driver domain a name can't be read.


def test_of_two_vms_that_lead_to_one_name_the_first_has_it_until_it_is_gone() -> None:
    guests = Guests()
    first, second = vif(1, "web_1"), vif(2, "web-1")
    guests.attach(first)
    note = (
        "web-1.lab.internal is the name of vif1.0 of web_1: the guest has no name in DNS until that one is gone, "
        "or one VM is renamed"
    )
    assert guests.attach(second) == (None, (note,))
    assert guests.attach(first)[0] == "web-1.lab.internal"
    assert second.id in guests.registry.drop(first.id, gone=True).rivals
    assert guests.attach(second) == ("web-1.lab.internal", ())


def test_all_interfaces_of_a_domain_have_its_name_also_over_a_reboot() -> None:
    guests = Guests()
    before = [vif(1, "web", devid) for devid in (0, 1)]
    after = [vif(2, "web", devid, uuid=before[0].uuid) for devid in (2, 3)]
    for one in (*before, *after, *before):
        assert guests.attach(one) == ("web.lab.internal", ())
