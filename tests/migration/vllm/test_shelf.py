"""The shelf of what comes in: slots are never lost, never two owners', whoever gives up first."""

import random
from collections import Counter

import pytest

from migration.engine import RequestState
from migration.vllm.arena import Slots
from migration.vllm.engine.staged import Shelf
from policies.types import MigrationId, RequestId

M = MigrationId("m")
STATE = RequestState(RequestId("r"), 0, (1,), (2,), 1, {})


class Stage:
    def __init__(self, n: int = 8) -> None:
        self.now_s = 1.0
        self.slots = Slots(range(100, 100 + n))
        self.shelf = Shelf(self.slots, lambda: self.now_s)
        self.freed = 0
        self.shelf.freed = self.note

    def note(self) -> None:
        self.freed += 1

    def land(self, first: int, n: int) -> None:
        assert self.shelf.place(M, first, n)
        self.shelf.arrived(M, first, n)

    def check(self, held: list[int]) -> None:
        """Each slot that is not free is in one place: `held`, or one record's."""
        for record in self.shelf._records.values():
            held += [*record.landing.values(), *record.waiting.values()]
        assert len(held) == len(set(held)) == len(self.slots) - self.slots.free


def test_blocks_land_wait_and_are_taken_in_order() -> None:
    stage = Stage()
    assert stage.shelf.open(M)
    stage.land(2, 2)
    stage.land(0, 1)
    record = stage.shelf.claim(M)
    assert record is not None
    assert (record.until(0), record.until(2)) == (1, 4)
    taken = stage.shelf.take(record, 1, 3)
    assert list(taken) == [2]
    assert (stage.slots.free, stage.freed) == (6, 1)  # block 0 was dropped, not wanted any more
    stage.shelf.give_back(taken)
    stage.shelf.forget(M)
    stage.shelf.drop(M, "over")
    assert stage.slots.free == 8


def test_a_frame_without_room_waits_and_takes_nothing() -> None:
    stage = Stage(3)
    stage.shelf.open(M)
    stage.land(0, 2)
    assert not stage.shelf.place(M, 2, 2)
    assert stage.slots.free == 1
    record = stage.shelf.claim(M)
    assert record is not None
    stage.shelf.give_back(stage.shelf.take(record, 0, 1))
    assert stage.shelf.place(M, 2, 2)


def test_a_frame_nobody_wants_gets_no_slots() -> None:
    """The llumlet throws it away; so it does with what comes after the end."""
    stage = Stage()
    assert stage.shelf.place(M, 0, 2)
    stage.shelf.open(M)
    stage.shelf.commit(M, STATE)
    assert stage.shelf.place(M, 0, 2)
    assert stage.slots.free == 8


@pytest.mark.parametrize("leaves", ["forget", "let_go"])
def test_slots_being_written_to_are_kept_until_the_llumlet_is_done(leaves: str) -> None:
    stage = Stage()
    stage.shelf.open(M)
    stage.land(0, 1)
    stage.shelf.claim(M)
    stage.shelf.place(M, 1, 2)
    landing = stage.shelf.landing_slots(M, 1, 2)
    getattr(stage.shelf, leaves)(M)
    assert stage.shelf.landing_slots(M, 1, 2) == landing
    others = stage.slots.acquire(stage.slots.free)
    assert others is not None
    assert not set(others) & set(landing)
    stage.slots.release(others)
    stage.shelf.arrived(M, 1, 2)
    stage.shelf.drop(M, "over")
    stage.shelf.expire(M)
    assert (stage.slots.free, stage.shelf.active()) == (8, 0)


def test_what_a_request_is_done_with_is_not_handed_over_again() -> None:
    """Its reservation is not grown either: the source learns early."""
    stage = Stage()
    stage.shelf.open(M)
    stage.shelf.claim(M)
    stage.shelf.forget(M)
    assert not stage.shelf.open(M)
    stage.land(0, 2)
    assert stage.slots.free == 8
    assert not stage.shelf.commit(M, STATE)


def test_what_an_early_claim_left_behind_waits_for_a_final_one() -> None:
    stage = Stage()
    stage.shelf.open(M)
    stage.shelf.claim(M)
    stage.land(0, 2)
    stage.shelf.let_go(M)
    stage.land(2, 1)
    assert stage.shelf.commit(M, STATE)
    record = stage.shelf.claim(M)
    assert record is not None
    assert record.until(0) == 3


def test_a_record_expires_only_when_it_has_ended_and_nobody_has_it() -> None:
    stage = Stage()
    stage.shelf.open(M)
    stage.land(0, 1)
    stage.shelf.expire(M)
    assert stage.shelf.active() == 1
    stage.shelf.commit(M, STATE)
    stage.shelf.claim(M)
    stage.shelf.expire(M)
    assert stage.shelf.active() == 1
    stage.shelf.let_go(M)
    assert (stage.shelf.active(), stage.slots.free) == (0, 8)


def test_a_new_attempt_begins_anew() -> None:
    """Under the same id, once the old one has ended; not while a request here still has that."""
    stage = Stage()
    stage.shelf.open(M)
    stage.land(0, 2)
    stage.shelf.drop(M, "superseded")
    assert stage.shelf.open(M)
    assert stage.slots.free == 8
    stage.land(0, 1)
    stage.shelf.claim(M)
    stage.shelf.drop(M, "superseded")
    assert not stage.shelf.open(M)


def test_unknown_ids_are_ignored() -> None:
    shelf = Stage().shelf
    for call in (shelf.forget, shelf.let_go, shelf.expire):
        call(M)
    shelf.drop(M, "over")
    shelf.arrived(M, 0, 1)
    assert shelf.claim(None) is None
    assert not shelf.commit(M, STATE)


@pytest.mark.parametrize("seed", range(30))
def test_slots_have_one_owner_in_any_order_of_calls(seed: int) -> None:
    chance, stage = random.Random(seed), Stage(12)
    ids = [MigrationId(f"m{n}") for n in range(4)]
    coming: dict[MigrationId, tuple[int, int]] = {}
    sent: Counter[MigrationId] = Counter()
    over: set[MigrationId] = set()
    taken: list[dict[int, int]] = []
    for _ in range(400):
        migration = chance.choice(ids)
        shelf = stage.shelf
        match chance.randrange(9):
            case 0 if migration not in coming and shelf.open(migration):
                over.discard(migration)
            case 1 if migration not in coming and sent[migration] < 40:
                n = chance.randint(1, 3)
                if shelf.place(migration, sent[migration], n):
                    coming[migration] = (sent[migration], n)
                    sent[migration] += n
            case 2 if migration in coming:
                shelf.arrived(migration, *coming.pop(migration))
            case 3 if migration not in coming:
                if not shelf.commit(migration, STATE):
                    shelf.drop(migration, "refused")
            case 4:
                coming.pop(migration, None)
                shelf.drop(migration, "over")
            case 5 if (record := shelf.claim(migration)) is not None:
                taken.append(shelf.take(record, 0, chance.randint(0, 40)))
            case 6 if taken:
                shelf.give_back(taken.pop())
            case 7:
                chance.choice([shelf.forget, shelf.let_go])(migration)
            case 8:
                shelf.expire(migration)
        stage.check([slot for one in taken for slot in one.values()])
    for one in taken:
        stage.shelf.give_back(one)
    for migration in ids:
        stage.shelf.drop(migration, "over")
        stage.shelf.let_go(migration)
    assert (stage.slots.free, stage.shelf.active()) == (12, 0)
