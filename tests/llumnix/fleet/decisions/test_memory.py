"""Decisions are remembered within bounds, and cost what they weigh."""

import tracemalloc

import numpy as np

from llumnix.fleet.decisions.decision import Decision, DecisionKind
from llumnix.fleet.decisions.memory import DecisionMemory
from policies.explained import Scores, Vetoes, ids_nbytes
from policies.types import Explanation, InstanceId, InstanceIds, RequestId

IDS = InstanceIds(InstanceId(f"instance-{number}") for number in range(1000))
LIMIT = 2 << 20


def decision(kind: DecisionKind = DecisionKind.DISPATCH, at_s: float = 0.0) -> Decision:
    scores = np.arange(1000, dtype=np.float64)
    vetoed = Vetoes(IDS, [(scores > 900, "it is too old")])
    return Decision(at_s, kind, IDS[3], Explanation("freeness", Scores(IDS, scores), vetoed))


def name(number: int) -> RequestId:
    return RequestId(f"r{number}")


def test_what_is_kept_weighs_what_was_allowed() -> None:
    """Measured, not only counted: the estimate is not far below what Python takes."""
    memory = DecisionMemory(max_bytes=LIMIT)
    memory.add(name(0), decision())
    tracemalloc.start()
    try:
        for number in range(1, 1000):
            memory.add(name(number), decision())
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert memory.nbytes <= LIMIT
    assert taken <= 1.25 * LIMIT
    assert memory.about(name(0)) is None
    assert memory.about(name(999)) is not None
    kept = sum(memory.about(name(number)) is not None for number in range(1000))
    assert kept * 8_000 < LIMIT < kept * 10_000


def test_the_number_is_bounded_however_little_they_weigh() -> None:
    memory = DecisionMemory(max_requests=10)
    for number in range(25):
        memory.add(name(number), Decision(0.0, DecisionKind.HOLD, None, Explanation("p")))

    assert [number for number in range(25) if memory.about(name(number))] == [*range(15, 25)]


def test_a_single_request_keeps_its_latest_and_its_weight_is_theirs() -> None:
    memory = DecisionMemory()
    for number in range(40):
        memory.add(name(0), decision(at_s=float(number)))
    for number in range(40, 44):
        memory.add(name(0), decision(DecisionKind.HOLD, float(number)))
    known = memory.about(name(0)) or []

    assert [each.at_s for each in known] == [*map(float, range(25, 40)), 43.0]
    assert memory.nbytes == sum(each.nbytes for each in known)
    memory.add(name(1), decision())
    assert memory.nbytes < 17 * decision().nbytes + ids_nbytes(IDS)


def test_a_fleet_that_changes_with_every_decision_is_weighed_as_well() -> None:
    """Then no two decisions share their ids, and each keeps its own in memory."""
    memory = DecisionMemory(max_bytes=LIMIT)
    tracemalloc.start()
    try:
        for number in range(100):
            ids = InstanceIds(IDS)
            assert ids.rows[IDS[0]] == 0
            scores = Scores(ids, np.zeros(1000))
            told = Decision(0.0, DecisionKind.DISPATCH, IDS[0], Explanation("p", scores))
            memory.add(name(number), told)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken <= 1.25 * LIMIT


def test_a_decision_is_written_out_when_it_is_asked_for() -> None:
    told = decision().record()

    assert told.scores["instance-7"] == 7.0
    assert len(told.scores) == 1000
    assert set(told.vetoed) == {f"instance-{number}" for number in range(901, 1000)}
    assert told.vetoed["instance-901"] == "it is too old"
