"""One look at one vif: what it comes to, for everything that a vif, its link and its tap can be."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from xennetd.daemon.record import Record
from xennetd.model.attachment import Assignment, Attachment
from xennetd.model.errors import Denied, HostError, XennetdError
from xennetd.model.link import GUEST_PORT_ADDRESS, IFF_UP, IN6_ADDR_GEN_MODE_NONE, Link
from xennetd.model.marks import port_alias
from xennetd.model.objects import ManagedBridge
from xennetd.model.placement import BridgePort
from xennetd.model.status import VifState
from xennetd.model.value import replace
from xennetd.model.vif import Vif, VifId, XenbusState
from xennetd.plan.decide import NAME_WAIT, Decision, PortDecision, Verdict, decide, without_effect
from xennetd.plan.difference import HostStep, Make
from xennetd.plan.observation import (
    RETRY_LONGEST,
    Failure,
    Memory,
    Observation,
    ObservedPort,
    PortMemory,
    cause,
    fail,
    incarnation,
)
from xennetd.plan.port import apply, stop

ID = VifId(7, 0)
VIF = Vif(ID, XenbusState.INIT_WAIT, online=True, script="/etc/xen/scripts/vif-xennetd", vm="web-1")
BRIDGE = Link(2, "xenbr0", kind="bridge", generation=1)
NEW = Link(9, "vif7.0", parent=ID, generation=2)
PORT = replace(
    NEW,
    master=2,
    flags=IFF_UP,
    address=GUEST_PORT_ADDRESS,
    addr_gen_mode=IN6_ADDR_GEN_MODE_NONE,
    alias=port_alias("xenbr0", 2),
)
TAP = Link(10, "vif7.0-emu", kind="tun", generation=3)
ATTACHED_TAP = replace(PORT, index=10, name="vif7.0-emu", kind="tun", parent=None, generation=3)
ASSIGNMENT = Assignment("bridge", bridge="xenbr0")
ATTACHMENT = Attachment(ID, ASSIGNMENT, BridgePort("xenbr0", 2, 1500), 1500)


@dataclass
class Situation:
    """An Observation with everything in order; tests change what they are about.

    `holders` are other links by their names, and `leaving` whether these are of guests that go.
    """

    vif: Vif = VIF
    link: Link | None = NEW
    tap: Link | None = None
    owned: bool = True
    outcome: Attachment | XennetdError = ATTACHMENT
    host: tuple[HostStep, ...] = ()
    holders: tuple[Link, ...] = ()
    leaving: bool = False
    established: bool = False
    before: Attachment | None = None
    memory: Memory = field(default_factory=Memory)
    now: float = 100.0
    removes_backend: bool = False

    def port(self, link: Link | None, name: str) -> ObservedPort | None:
        holder = next((each for each in self.holders if each.name == name), None)
        return ObservedPort(link, holder=holder, holder_leaves=self.leaving) if link is not None else None

    def decide(self) -> Decision:
        return decide(self.observe())

    def observe(self) -> Observation:
        return Observation(
            vif=self.vif,
            port=self.port(self.link, self.vif.link_name),
            tap=self.port(self.tap, self.vif.tap_name),
            owned=self.owned,
            assignment=ASSIGNMENT,
            outcome=self.outcome,
            memory=self.memory,
            now=self.now,
            host=self.host,
            established=self.established,
            before=self.before,
            removes_backend=self.removes_backend,
        )


def test_a_port_without_a_flag_that_must_be_on_is_not_kept_when_the_kernel_refuses_the_flag() -> None:
    vif = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")
    refused = HostError("the kernel refuses the flag")
    port = PortMemory(failure=fail(refused, vif, PORT, None, 100.0))
    memory = Memory(connected=incarnation(PORT), port=port)
    isolated = replace(ATTACHMENT, placement=BridgePort("xenbr0", 2, 1500, (("isolated", True),)))
    kept = Situation(vif=vif, link=PORT, memory=memory).decide()
    assert kept.steps == ()
    cut_off = Situation(vif=vif, link=PORT, memory=memory, outcome=isolated).decide()
    assert next(step.describe() for step in cut_off.steps) == "ip link set dev vif7.0 down"
    flagged = replace(PORT, flags_on=frozenset({"isolated"}))
    assert Situation(vif=vif, link=flagged, memory=memory, outcome=isolated).decide().steps == ()


def test_a_flag_that_policy_had_on_and_decides_no_more_is_switched_off_once() -> None:
    vif = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")
    before = replace(ATTACHMENT, placement=BridgePort("xenbr0", 2, 1500, (("isolated", True),)))
    isolated = replace(PORT, flags_on=frozenset({"isolated"}))
    memory = Memory(connected=incarnation(PORT))
    decision = Situation(vif=vif, link=isolated, memory=memory, before=before).decide()
    assert [step.describe() for step in decision.steps] == ["bridge link set dev vif7.0 isolated off"]
    later = Situation(vif=vif, link=isolated, memory=memory, before=ATTACHMENT).decide()
    assert later.steps == (), "it is an administrator's now"


def test_a_record_takes_over_what_was_reached_and_nothing_that_failed() -> None:
    vif = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")
    record = Record(vif, attachment=ATTACHMENT)
    other = replace(ATTACHMENT, placement=BridgePort("xenbr1", 3, 1500))
    failed = Decision(VifState.ERROR, port=PortDecision(error=HostError("refused")), attachment=other)
    record.settle(failed, PORT)
    assert record.attachment is ATTACHMENT
    record.settle(Decision(VifState.CONNECTED, attachment=other), PORT)
    assert record.attachment is other
    record.settle(Decision(VifState.ERROR, port=PortDecision(error=HostError("denied"))), NEW)
    assert record.attachment is None
    assert record.where == "xenbr1"


def test_state_two_without_the_link_waits_for_the_link() -> None:
    decision = Situation(link=None).decide()
    assert (decision.state, decision.reason) == (VifState.PENDING, "waiting for the link vif7.0")
    assert not decision.has_steps
    assert decision.verdict is None


def test_the_link_without_state_two_waits_for_netback() -> None:
    decision = Situation(vif=replace(VIF, state=XenbusState.INITIALISING)).decide()
    assert (decision.state, decision.reason) == (VifState.PENDING, "waiting for netback (backend state 1)")
    assert not decision.has_steps


def test_steps_come_first_and_the_verdict_only_when_nothing_is_left_to_do() -> None:
    first = Situation().decide()
    assert first.steps
    assert first.verdict is None
    second = Situation(link=apply(first.port.steps, NEW)).decide()
    assert second.steps == ()
    assert second.verdict == Verdict(frontend_mtu=1500)


def test_a_connected_vif_that_is_as_it_should_be_is_left_alone() -> None:
    decision = Situation(vif=replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected"), link=PORT).decide()
    assert decision.state is VifState.CONNECTED
    assert not decision.has_steps
    assert decision.verdict is None


def test_a_verdict_that_the_kernel_deleted_is_given_again_without_the_mtu() -> None:
    memory = Memory(connected=incarnation(PORT))
    decision = Situation(link=PORT, memory=memory).decide()
    assert decision.verdict == Verdict(frontend_mtu=None)


def test_while_the_frontend_reconnects_no_verdict_is_given() -> None:
    for state in (XenbusState.CLOSING, XenbusState.CLOSED):
        decision = Situation(vif=replace(VIF, state=state), link=PORT).decide()
        assert decision.verdict is None
        assert decision.state is VifState.PENDING
        assert not decision.has_steps


def test_a_removal_releases_the_port_and_gives_no_verdict() -> None:
    decision = Situation(vif=replace(VIF, online=False, state=XenbusState.CLOSING), link=PORT).decide()
    assert decision.state is VifState.DETACHING
    assert [step.describe() for step in decision.steps] == [
        "ip link set dev vif7.0 down",
        "ip link set dev vif7.0 nomaster",
    ]
    assert decision.verdict is None


def test_only_a_driver_domain_removes_the_backend_and_only_when_it_is_closed() -> None:
    closed = replace(VIF, online=False, state=XenbusState.CLOSED)
    assert Situation(vif=closed, removes_backend=True).decide().remove_backend
    assert not Situation(vif=closed).decide().remove_backend
    assert not Situation(vif=replace(closed, state=XenbusState.CLOSING), removes_backend=True).decide().remove_backend
    assert not Situation(vif=replace(closed, online=True), removes_backend=True).decide().remove_backend


def test_a_vif_of_another_script_is_ignored() -> None:
    decision = Situation(vif=replace(VIF, script="/etc/xen/scripts/vif-bridge"), owned=False, tap=TAP).decide()
    assert decision.state is VifState.IGNORED
    assert "vif-bridge" in (decision.reason or "")
    assert not decision.has_steps
    assert decision.tap_verdict is None


def test_a_pinned_vif_is_not_touched() -> None:
    decision = Situation(vif=replace(VIF, pinned=True), tap=TAP).decide()
    assert not decision.has_steps
    assert decision.verdict is None
    assert "pinned" in (decision.reason or "")


def test_an_error_is_told_only_after_the_port_is_down() -> None:
    error = HostError('bridge "xenbr0" does not exist')
    up = Situation(link=PORT, outcome=error)
    first = up.decide()
    assert first.verdict is None
    second = replace_link(up, apply(first.port.steps, PORT)).decide()
    assert second.verdict == Verdict(error='bridge "xenbr0" does not exist')
    assert second.state is VifState.ERROR


def test_an_error_is_told_also_when_the_steps_that_take_the_port_down_have_no_effect() -> None:
    error = HostError('bridge "xenbr0" does not exist')
    up = Situation(link=PORT, tap=ATTACHED_TAP, outcome=error)
    decision = without_effect(up.observe(), up.decide())
    assert not decision.has_steps
    assert (decision.state, decision.error) == (VifState.ERROR, error)
    assert decision.verdict == Verdict(error='bridge "xenbr0" does not exist')
    assert decision.tap_verdict == 'error: bridge "xenbr0" does not exist'


def replace_link(situation: Situation, link: Link) -> Situation:
    situation.link = link
    return situation


def test_what_the_host_lacks_comes_first_and_is_no_verdict_yet() -> None:
    lacking = Make(ManagedBridge("xn-lab", "02:00:00:00:00:01"))
    decision = Situation(host=(lacking,)).decide()
    assert decision.steps[0] == lacking
    assert decision.verdict is None
    last = Situation(link=PORT, host=(lacking,)).decide()
    assert last.steps == (lacking,)
    assert last.verdict is None


class TestAGuestThatWasRight:
    vif = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")

    def test_is_not_cut_off_because_the_host_has_become_worse(self) -> None:
        worse = HostError("the uplink has no address", waits_on=frozenset({"eth0"}))
        decision = Situation(vif=self.vif, link=PORT, outcome=worse, established=True, before=ATTACHMENT).decide()
        assert decision.state is VifState.ERROR
        assert decision.error is worse
        assert not decision.has_steps
        assert decision.attachment == ATTACHMENT, "it keeps its addresses, and what it needs of the host"
        assert decision.waits_on == {"eth0"}

    def test_is_cut_off_when_a_policy_denies_it(self) -> None:
        decision = Situation(vif=self.vif, link=PORT, outcome=Denied("no"), established=True).decide()
        assert [step.describe() for step in decision.steps] == [
            "ip link set dev vif7.0 down",
            "ip link set dev vif7.0 nomaster",
        ]

    def test_but_one_that_is_elsewhere_is_taken_down(self) -> None:
        assert Situation(vif=self.vif, link=PORT, outcome=HostError("no"), established=False).decide().has_steps


def test_an_error_is_told_once() -> None:
    error = HostError("no")
    told = replace(VIF, hotplug_status="error", hotplug_error="no")
    assert Situation(vif=told, outcome=error).decide().verdict is None
    other = replace(told, hotplug_error="other")
    assert Situation(vif=other, outcome=error).decide().verdict is not None


def test_a_vif_that_is_connected_keeps_its_status_when_a_policy_begins_to_deny_it() -> None:
    vif = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")
    decision = Situation(vif=vif, link=replace(PORT, flags=0, master=0), outcome=Denied("no")).decide()
    assert decision.state is VifState.ERROR
    assert decision.verdict is None


def test_a_refused_step_is_an_error_until_what_it_was_about_changes() -> None:
    memory = Memory(port=PortMemory(Failure(HostError("full"), cause(VIF), incarnation(NEW))))
    assert Situation(memory=memory).decide().state is VifState.ERROR
    later = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="error", hotplug_error="full")
    assert Situation(vif=later, memory=memory).decide().state is VifState.ERROR
    assert Situation(vif=replace(VIF, mtu=1400), memory=memory).decide().steps
    assert Situation(link=replace(NEW, generation=5), memory=memory).decide().steps


def test_what_no_event_will_cure_is_tried_again_ever_more_patiently() -> None:
    first = fail(HostError("no memory"), VIF, NEW, None, now=100.0)
    assert first.until == 101.0
    waiting = Situation(memory=Memory(port=PortMemory(first)), now=100.5).decide()
    assert waiting.state is VifState.ERROR
    assert waiting.look_at == 101.0
    assert Situation(memory=Memory(port=PortMemory(first)), now=101.0).decide().steps
    failure = first
    for _ in range(20):
        failure = fail(HostError("no memory"), VIF, NEW, failure, now=100.0)
    assert failure.until == 100.0 + RETRY_LONGEST


def test_what_a_link_will_cure_waits_for_the_link() -> None:
    full = HostError("full", waits_on=frozenset({"xenbr0"}))
    failure = fail(full, VIF, NEW, None, now=100.0)
    decision = Situation(memory=Memory(port=PortMemory(failure)), now=1e9).decide()
    assert decision.state is VifState.ERROR
    assert decision.look_at is None
    assert decision.waits_on == {"xenbr0"}


def test_a_connected_guest_is_not_cut_off_because_a_repair_fails() -> None:
    vif = replace(VIF, state=XenbusState.CONNECTED, hotplug_status="connected")
    failure = fail(HostError("does not stay as it was set"), vif, PORT, None, now=100.0)
    memory = Memory(connected=incarnation(PORT), port=PortMemory(failure))
    decision = Situation(vif=vif, link=PORT, memory=memory).decide()
    assert decision.state is VifState.ERROR
    assert not decision.has_steps
    elsewhere = Situation(vif=vif, link=replace(PORT, master=0, alias=""), memory=memory).decide()
    assert [step.describe() for step in elsewhere.steps] == ["ip link set dev vif7.0 down"]


def test_an_mtu_is_given_once_and_the_frontend_is_told_what_came_of_it() -> None:
    vif = replace(VIF, mtu=9000)
    jumbo = replace(ATTACHMENT, mtu=9000)
    given = Memory(port=PortMemory(mtu_given=incarnation(PORT)))
    decision = Situation(vif=vif, link=PORT, outcome=jumbo, memory=given).decide()
    assert decision.verdict == Verdict(frontend_mtu=1500)
    assert Situation(vif=vif, link=PORT, outcome=jumbo).decide().steps


class TestVifname:
    vif = replace(VIF, vifname="web0")
    holder = Link(5, "web0", parent=VifId(6, 0), generation=7)

    def situation(self, *, leaving: bool, memory: Memory | None = None, now: float = 100.0) -> Situation:
        return Situation(
            vif=self.vif,
            holders=(self.holder,),
            leaving=leaving,
            memory=memory or Memory(),
            now=now,
        )

    def test_one_that_an_older_vif_still_holds_is_waited_for(self) -> None:
        decision = self.situation(leaving=True).decide()
        assert decision.state is VifState.PENDING
        assert decision.port.name_awaited_since == 100.0
        assert decision.waits_on == {"web0"}
        assert not decision.has_steps

    def test_waiting_goes_on_from_when_it_began(self) -> None:
        memory = Memory(port=PortMemory(name_awaited_since=95.0))
        assert self.situation(leaving=True, memory=memory).decide().port.name_awaited_since == 95.0

    def test_waiting_ends_with_an_error(self) -> None:
        memory = Memory(port=PortMemory(name_awaited_since=100.0))
        decision = self.situation(leaving=True, memory=memory, now=100.0 + NAME_WAIT).decide()
        assert decision.verdict is not None
        assert decision.verdict.error == 'the interface name "web0" is already in use on this host'

    def test_one_that_a_living_vif_holds_is_an_error_at_once_that_does_not_name_the_neighbour_to_the_guest(
        self,
    ) -> None:
        decision = self.situation(leaving=False).decide()
        assert decision.state is VifState.ERROR
        assert decision.error is not None
        assert "vif6.0" in decision.error.detail
        assert "vif6.0" not in decision.error.sentence


class TestTap:
    def test_it_is_attached_before_the_backend_is_in_state_two(self) -> None:
        decision = Situation(vif=replace(VIF, state=XenbusState.INITIALISING), link=None, tap=TAP).decide()
        assert [step.describe() for step in decision.tap.steps][-1] == "ip link set dev vif7.0-emu up"

    def test_it_has_a_verdict_of_its_own(self) -> None:
        tap = replace(PORT, index=10, name="vif7.0-emu", kind="tun", parent=None)
        assert Situation(tap=tap).decide().tap_verdict == "connected"
        assert Situation(vif=replace(VIF, tap_status="connected"), tap=tap).decide().tap_verdict is None

    def test_its_verdict_goes_with_it(self) -> None:
        assert Situation(vif=replace(VIF, tap_status="connected")).decide().tap_verdict == ""
        assert Situation().decide().tap_verdict is None

    def test_it_is_taken_down_and_told_when_the_vif_is_refused(self) -> None:
        up = replace(PORT, index=10, name="vif7.0-emu", kind="tun", parent=None)
        refused = Situation(link=None, tap=up, outcome=Denied("no"))
        first = refused.decide()
        assert first.tap_verdict is None
        refused.tap = apply(first.tap.steps, up)
        assert refused.decide().tap_verdict == "error: no"

    def test_its_failure_is_not_the_vifs(self) -> None:
        failure = Failure(HostError("full"), cause(VIF), incarnation(TAP))
        decision = Situation(tap=TAP, memory=Memory(tap=PortMemory(failure))).decide()
        assert decision.tap_verdict == "error: full"
        assert decision.error is None

    def test_it_goes_down_with_a_vif_in_error_that_was_never_connected(self) -> None:
        memory = Memory(port=PortMemory(Failure(HostError("full"), cause(VIF), incarnation(PORT))))
        told = replace(VIF, tap_status="connected")
        assert Situation(vif=told, tap=ATTACHED_TAP, memory=memory).decide().tap.steps == stop(ATTACHED_TAP)
        failed = replace(memory, tap=PortMemory(Failure(HostError("tap"), cause(VIF), incarnation(TAP))))
        assert Situation(vif=told, tap=ATTACHED_TAP, memory=failed).decide().tap.steps == stop(ATTACHED_TAP)
        down = Situation(vif=told, tap=apply(stop(ATTACHED_TAP), ATTACHED_TAP), memory=memory).decide()
        assert down.tap_verdict == "error: full"
        connected = replace(told, hotplug_status="connected")
        kept = Situation(vif=connected, link=PORT, tap=ATTACHED_TAP, memory=failed).decide()
        assert kept.state is VifState.ERROR
        assert not kept.tap.steps

    def test_its_error_before_its_vif_is_connected_takes_it_down_whatever_it_was_told(self) -> None:
        failure = Failure(HostError("full"), cause(VIF), incarnation(TAP))
        vif = replace(VIF, state=XenbusState.INITIALISING, tap_status="connected")
        decision = Situation(vif=vif, link=None, tap=ATTACHED_TAP, memory=Memory(tap=PortMemory(failure))).decide()
        assert decision.tap.steps == stop(ATTACHED_TAP)

    def test_it_waits_for_a_name_no_longer_than_a_vif_does(self) -> None:
        vif = replace(VIF, vifname="web0", state=XenbusState.INITIALISING)
        holders = (replace(TAP, index=4, name="web0-emu"),)
        waiting = Situation(vif=vif, link=None, tap=TAP, holders=holders, leaving=True)
        first = waiting.decide()
        assert first.tap.name_awaited_since == 100.0
        assert first.waits_on == {"web0-emu"}
        assert first.look_at == 100.0 + NAME_WAIT
        assert first.tap_verdict is None
        waiting.memory = Memory(tap=PortMemory(name_awaited_since=100.0))
        waiting.now = 100.0 + NAME_WAIT
        assert "already in use" in (waiting.decide().tap_verdict or "")


vifs = st.builds(
    Vif,
    id=st.just(ID),
    state=st.sampled_from(XenbusState),
    online=st.booleans(),
    script=st.just("vif-xennetd"),
    vifname=st.sampled_from([None, "web0"]),
    hotplug_status=st.sampled_from([None, "connected", "error"]),
    tap_status=st.sampled_from([None, "connected", "error: full"]),
)
links = st.none() | st.builds(
    Link,
    index=st.just(9),
    name=st.sampled_from(["vif7.0", "web0"]),
    master=st.sampled_from([0, 2, 3]),
    flags=st.sampled_from([0, IFF_UP]),
    mtu=st.sampled_from([68, 1500]),
    parent=st.just(ID),
)
taps = st.none() | st.builds(
    Link,
    index=st.just(10),
    name=st.sampled_from(["vif7.0-emu", "web0-emu"]),
    kind=st.just("tun"),
    master=st.sampled_from([0, 2]),
    flags=st.sampled_from([0, IFF_UP]),
)
memories = st.builds(Memory, connected=st.sampled_from([None, (9, 0), (9, 1)]))
outcomes = st.sampled_from([ATTACHMENT, Denied("no"), HostError("none")])


@given(vifs, links, taps, memories, outcomes, st.booleans())
def test_looks_come_to_rest_after_their_steps(
    vif: Vif, link: Link | None, tap: Link | None, memory: Memory, outcome: Attachment | XennetdError, owned: bool
) -> None:
    situation = Situation(vif=vif, link=link, tap=tap, memory=memory, outcome=outcome, owned=owned)
    first = situation.decide()
    situation.link = apply(first.port.steps, link) if link else None
    situation.tap = apply(first.tap.steps, tap) if tap else None
    second = situation.decide()
    assert not second.has_steps
    if first.has_steps:
        assert first.verdict is None or not first.port.steps
    if second.state is VifState.ERROR and situation.link is not None:
        assert not situation.link.up
    if second.verdict is not None and second.verdict.error is None:
        assert situation.link is not None
        assert situation.link.up
        assert situation.link.master == 2
        assert vif.online
        assert vif.state in (XenbusState.INIT_WAIT, XenbusState.CONNECTED)


@given(vifs, links, taps, outcomes)
def test_what_is_not_ours_or_pinned_is_never_touched(
    vif: Vif, link: Link | None, tap: Link | None, outcome: Attachment | XennetdError
) -> None:
    for situation in (
        Situation(vif=vif, link=link, tap=tap, outcome=outcome, owned=False),
        Situation(vif=replace(vif, pinned=True), link=link, tap=tap, outcome=outcome),
    ):
        decision = situation.decide()
        assert not decision.has_steps
        assert decision.verdict is None
        assert decision.tap_verdict is None
        assert not decision.remove_backend
