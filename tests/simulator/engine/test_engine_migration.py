"""What migration asks of an engine: reservations, detaching, attaching."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.types import InstanceId, MigrationId, RequestId
from simulator.engine.batch import Place, StepPlan
from tests.simulator.engine.engine_host import add, check_blocks, make_engine, names, run_out, step

A, M = RequestId("a"), MigrationId("m")


def test_detaching_takes_effect_at_the_step_boundary() -> None:
    """The step in flight still yields its token; then the request stands still, blocks kept."""
    engine, host = make_engine()
    request = add(engine, host, "a", length=20)
    step(engine)
    plan = engine.plan_step()
    assert plan is not None
    assert engine.detach(A)
    assert request.place is Place.BATCH
    assert names(engine.complete_step(plan).produced) == ["a"]
    assert host.detachments == [request]
    assert (request.output_tokens, request.kv_tokens) == (2, 11)
    assert len(request.blocks) == 2
    assert engine.plan_step() is None


def test_detaching_between_steps_takes_effect_before_the_next() -> None:
    """Asked for between two steps, the request is not in the second."""
    engine, host = make_engine()
    add(engine, host, "a", length=20)
    step(engine)
    engine.detach(A)
    assert engine.plan_step() is None
    assert names(host.detachments) == ["a"]


def test_a_request_that_finishes_first_is_not_detached() -> None:
    """Its last token ends it; there is nothing left to move."""
    engine, host = make_engine()
    add(engine, host, "a", length=2)
    step(engine)
    plan = engine.plan_step()
    assert plan is not None
    engine.detach(A)
    assert names(engine.complete_step(plan).finished) == ["a"]
    assert host.detachments == []


def test_a_reattached_request_goes_on_as_if_nothing_had_been() -> None:
    """An aborted migration costs steps, not tokens."""
    engine, host = make_engine()
    request = add(engine, host, "a", length=4)
    step(engine)
    engine.detach(A)
    assert engine.plan_step() is None
    assert engine.reattach(A)
    assert not engine.reattach(A)
    plans = run_out(engine)
    assert len(plans) == 3
    assert request.output_tokens == 4


def test_reattaching_before_the_boundary_drops_the_wish() -> None:
    """A detachment called off in time never happens."""
    engine, host = make_engine()
    add(engine, host, "a", length=4)
    step(engine)
    engine.detach(A)
    assert engine.reattach(A)
    step(engine)
    assert host.detachments == []


def test_preempting_never_picks_a_detached_request() -> None:
    """Memory short, the running request gives way itself rather than touch what is being moved."""
    engine, host = make_engine(blocks=6, token_budget=64)
    running = add(engine, host, "running", prompt=20, length=20, class_index=0)
    moving = add(engine, host, "a", prompt=20, length=20, class_index=1)
    step(engine)
    engine.detach(A)
    blocks = list(moving.blocks)
    while running.place is Place.BATCH:
        plan = engine.plan_step()
        if plan is not None:
            engine.complete_step(plan)
    assert host.preemptions == [running]
    assert (moving.place, moving.blocks) == (Place.DETACHED, blocks)


@pytest.mark.parametrize("state", ["queued", "prefill", "unknown"])
def test_only_decoding_requests_are_detached(state: str) -> None:
    """There is nothing to move of a request that has not begun to answer."""
    engine, host = make_engine(token_budget=16)
    if state != "unknown":
        add(engine, host, "a", prompt=40)
    if state == "prefill":
        step(engine)
    assert not engine.detach(A)


def test_a_reservation_grows_and_is_given_back() -> None:
    """Each call names the total; what is held already is kept, in order."""
    engine, _ = make_engine(blocks=4)
    assert engine.reserve(M, 2)
    first = list(engine.reserved_blocks(M))
    assert engine.reserve(M, 3)
    assert engine.reserved_blocks(M)[:2] == first
    assert engine.reserve(M, 1)
    assert len(engine.reserved_blocks(M)) == 3
    assert not engine.reserve(M, 5)
    assert engine.load(InstanceId("i")).reserved_tokens == 3 * 8
    engine.free_reservation(M)
    engine.free_reservation(M)
    assert engine.blocks.free_blocks == 4


def test_a_reservation_holds_a_place_in_the_batch() -> None:
    """So that the request it is for can always be attached."""
    engine, host = make_engine(max_num_seqs=2, token_budget=16)
    assert engine.reserve(M, 2)
    add(engine, host, "b")
    add(engine, host, "c")
    step(engine)
    assert engine.waiting == 1
    assert not engine.reserve(MigrationId("other"), 1)


def test_an_attached_request_decodes_in_the_next_step() -> None:
    """All its KV came along: one token of input, one of output."""
    engine, host = make_engine()
    host.lengths[A] = 7
    assert engine.reserve(M, 2)
    request = engine.attach(M, A, 1, prompt_tokens=10, output_tokens=4, kv_tokens=13)
    assert request is not None
    assert engine.blocks.reserved_blocks == 0
    plan, result = step(engine)
    assert (names(plan.decodes), names(result.produced)) == (["a"], ["a"])
    assert request.output_tokens == 5


def test_a_tail_that_was_not_copied_is_computed_again() -> None:
    """KV for a prefix is enough: the rest is a small prefill."""
    engine, host = make_engine()
    host.lengths[A] = 7
    assert engine.reserve(M, 1)
    request = engine.attach(M, A, 1, prompt_tokens=10, output_tokens=4, kv_tokens=8)
    assert request is not None
    plan, _ = step(engine)
    assert [(chunk.start, chunk.tokens) for chunk in plan.prefills] == [(8, 6)]
    assert request.output_tokens == 5


@pytest.mark.parametrize(
    ("reserved", "request_id", "kv_tokens"),
    [(0, "a", 13), (1, "a", 13), (2, "taken", 13), (2, "a", 14), (2, "a", -1)],
)
def test_what_cannot_be_attached_leaves_nothing_behind(
    reserved: int, request_id: str, kv_tokens: int
) -> None:
    """No reservation, too small a one, an id in use, or more KV than tokens: all is freed."""
    engine, host = make_engine()
    add(engine, host, "taken")
    if reserved:
        assert engine.reserve(M, reserved)
    attached = engine.attach(M, RequestId(request_id), 0, 10, 4, kv_tokens)
    assert attached is None
    assert engine.blocks.free_blocks == engine.blocks.total_blocks
    assert names(tuple(engine.requests())) == ["taken"]


class Migrations(RuleBasedStateMachine):
    """Everything a llumlet may ask, at any moment of a step, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.engine, self.host = make_engine(blocks=12, max_num_seqs=4)
        self.plan: StepPlan | None = None
        self.count = 0
        self.reserved: dict[MigrationId, int] = {}
        self.frozen: dict[RequestId, tuple[int, int, list[int]]] = {}

    def some(self, data: st.DataObject, place: Place) -> RequestId | None:
        ids = [one.request_id for one in self.engine.requests() if one.place is place]
        return data.draw(st.sampled_from(ids)) if ids else None

    @rule(prompt=st.integers(1, 40), length=st.integers(1, 40), klass=st.integers(0, 1))
    def add(self, prompt: int, length: int, klass: int) -> None:
        self.count += 1
        add(self.engine, self.host, f"r{self.count}", prompt, length, klass)

    @precondition(lambda self: self.plan is None)
    @rule()
    def begin_step(self) -> None:
        self.plan = self.engine.plan_step()

    @precondition(lambda self: self.plan is not None)
    @rule()
    def end_step(self) -> None:
        assert self.plan is not None
        result = self.engine.complete_step(self.plan)
        self.plan = None
        assert not {one.request_id for one in result.produced} & set(self.frozen)
        for one in result.finished:
            assert one.output_tokens == self.host.lengths[one.request_id]

    @rule(data=st.data(), place=st.sampled_from(Place))
    def cancel(self, data: st.DataObject, place: Place) -> None:
        request_id = self.some(data, place)
        if request_id is not None:
            assert self.engine.cancel(request_id)
            self.frozen.pop(request_id, None)

    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        request_id = self.some(data, Place.BATCH)
        if request_id is not None:
            self.engine.detach(request_id)

    @rule(data=st.data())
    def reattach(self, data: st.DataObject) -> None:
        request_id = self.some(data, Place.DETACHED)
        if request_id is not None:
            assert self.engine.reattach(request_id)
            self.frozen.pop(request_id, None)

    @rule(number=st.integers(0, 2), blocks=st.integers(0, 8))
    def reserve(self, number: int, blocks: int) -> None:
        migration_id = MigrationId(f"m{number}")
        before = self.reserved.get(migration_id)
        if self.engine.reserve(migration_id, blocks):
            self.reserved[migration_id] = max(before or 0, blocks)

    @rule(number=st.integers(0, 2))
    def free_reservation(self, number: int) -> None:
        self.engine.free_reservation(MigrationId(f"m{number}"))
        self.reserved.pop(MigrationId(f"m{number}"), None)

    @rule(number=st.integers(0, 2), prompt=st.integers(1, 30), outputs=st.integers(1, 10))
    def attach(self, number: int, prompt: int, outputs: int) -> None:
        self.count += 1
        request_id = RequestId(f"r{self.count}")
        self.host.lengths[request_id] = outputs + 5
        kv_tokens = prompt + outputs - 1
        held = self.reserved.pop(MigrationId(f"m{number}"), 0)
        attached = self.engine.attach(
            MigrationId(f"m{number}"), request_id, 0, prompt, outputs, kv_tokens
        )
        assert (attached is not None) == (held >= self.engine.blocks.blocks_for(kv_tokens))

    @invariant()
    def blocks_are_conserved(self) -> None:
        check_blocks(self.engine)
        assert self.engine.blocks.reserved_blocks == sum(self.reserved.values())

    @invariant()
    def slots_are_conserved(self) -> None:
        inside = sum(one.place is not Place.QUEUED for one in self.engine.requests())
        assert inside + len(self.reserved) + self.engine.free_slots == 4
        assert self.engine.free_slots >= 0

    @invariant()
    def detached_requests_stand_still(self) -> None:
        for one in self.engine.requests():
            if one.place is Place.DETACHED:
                now = (one.kv_tokens, one.output_tokens, list(one.blocks))
                assert self.frozen.setdefault(one.request_id, now) == now

    @invariant()
    def load_agrees_with_the_requests(self) -> None:
        load = self.engine.load(InstanceId("i"))
        assert sum(load.running) + sum(load.waiting) == len(self.engine.requests())
        assert load.physical_tokens == 8 * self.engine.blocks.allocated_blocks
        assert load.head_demand_tokens <= load.queued_demand_tokens

    def teardown(self) -> None:
        """In the end, once nothing is held back, everyone finishes with exactly their tokens."""
        if self.plan is not None:
            self.engine.complete_step(self.plan)
        for number in range(3):
            self.engine.free_reservation(MigrationId(f"m{number}"))
        left = self.engine.requests()
        while self.engine.requests():
            for one in self.engine.requests():
                self.engine.reattach(one.request_id)
            run_out(self.engine)
        for one in left:
            assert one.output_tokens == self.host.lengths[one.request_id]
        assert self.engine.blocks.free_blocks == self.engine.blocks.total_blocks


TestMigrations = Migrations.TestCase
TestMigrations.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
