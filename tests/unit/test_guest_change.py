"""What a plan says of a guest: what it has now, beside what the new configuration gives it."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tests.unit.test_plan_decide import ATTACHMENT, PORT, VIF, Situation
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.errors import Denied, HostError, XennetdError
from xennetd.model.placement import BridgePort
from xennetd.model.value import replace
from xennetd.model.vif import XenbusState
from xennetd.plan.decide import decide
from xennetd.plan.guest_change import grouped, guest_change

CONNECTED = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")
LAB = replace(
    ATTACHMENT, placement=BridgePort("lab", 3, 1500), assignment=Assignment("bridge", "lab", "web", bridge="lab")
)
AWAITED = HostError('bridge "lab" does not exist')


def change(situation: Situation, error: XennetdError | None = None) -> str | None:
    seen = situation.observe()
    return guest_change(seen, decide(seen), error)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (ATTACHMENT, None),
        (LAB, "moved from xenbr0 to lab (network lab)"),
        (replace(ATTACHMENT, placement=BridgePort("xenbr0", -7, 1500)), "attached to xenbr0 again"),
        (replace(ATTACHMENT, ips=(IPv4Network("192.0.2.5/32"),)), "changed (addresses)"),
        (replace(ATTACHMENT, mac="00:16:3e:00:00:01"), "changed (MAC)"),
        (
            replace(ATTACHMENT, placement=BridgePort("xenbr0", 2, 1500, (("isolated", True),))),
            "changed (flags of its port)",
        ),
        (replace(ATTACHMENT, warnings=("its name is odd",)), "warned (its name is odd)"),
        (Denied("denied by policy: no"), "cut off (denied by policy: no)"),
        (AWAITED, 'cut off (bridge "lab" does not exist)'),
    ],
)
def test_a_connected_guest(outcome: Attachment | XennetdError, said: str | None) -> None:
    assert change(Situation(vif=CONNECTED, link=PORT, before=ATTACHMENT, outcome=outcome)) == said


def test_a_guest_that_keeps_what_it_has() -> None:
    kept = Situation(vif=CONNECTED, link=PORT, before=ATTACHMENT, outcome=AWAITED, established=True)
    assert change(kept) == 'left on its port in spite of an error (bridge "lab" does not exist)'
    assert change(kept, AWAITED) is None, "that is no change"


def test_a_guest_in_error() -> None:
    assert change(Situation(outcome=LAB), AWAITED) == "attached to lab"
    assert change(Situation(outcome=AWAITED), AWAITED) is None
    assert change(Situation(outcome=AWAITED), HostError("else")) == 'refused (bridge "lab" does not exist)'
    assert change(Situation(outcome=LAB)) is None, "it is being attached anyhow"


def test_guests_that_a_configuration_does_not_change() -> None:
    assert change(Situation(vif=replace(CONNECTED, pinned=True), link=PORT, before=ATTACHMENT, outcome=LAB)) is None
    assert change(Situation(vif=replace(CONNECTED, online=False), link=PORT, before=ATTACHMENT, outcome=LAB)) is None
    assert change(Situation(vif=CONNECTED, owned=False)) is None
    assert change(Situation(vif=CONNECTED, owned=False, before=ATTACHMENT)) == "not managed by xennetd any more"


def test_guests_with_the_same_change_share_a_line_and_many_are_counted() -> None:
    changes = [(f"vif{domid}.0", "moved") for domid in range(1, 12)] + [("vif99.0", "refused (why)")]
    assert grouped(changes) == [
        "moved: vif1.0, vif2.0, vif3.0, vif4.0, vif5.0, vif6.0, vif7.0, vif8.0 and 3 more",
        "refused (why): vif99.0",
    ]
