"""The built-in dispatch policies once more, row by row: for fleets so small that columns are slow.

A handful of numbers is added up in Python before numpy has begun, and most fleets have a handful of
instances. These are the lines of `policies.dispatch`, `policies.usage`, `policies.columns` and
`policies.vetoes` in plain numbers, operation by operation, so that every decision is the same to
the last bit: a test compares them. A policy without a twin here decides by columns in every fleet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from policies.chance import chance
from policies.columns import HOLD
from policies.dispatch import FreenessParams
from policies.registry import NoParams, Registry
from policies.types import DispatchRequest, FleetSnapshot, InstanceId, IntColumn
from policies.usage import headroom_usage, over_classes

MOST_ROWS = 32
"""Up to how many instances rows are faster than columns."""

_INFINITE = float("inf")


@dataclass(slots=True)
class Rows:
    """A small fleet in plain numbers, one list per column, as a `DispatchView` has it.

    `running`, `waiting` and `headroom` (None: no class has any) are over all classes; `batch`
    counts the requests that run, wait or are on their way, `startable` the tokens a new request
    could use at once.
    """

    request: DispatchRequest
    turn: int
    seed: int
    capacity: list[int]
    running: list[int]
    waiting: list[int]
    headroom: list[int] | None
    terminating: list[bool]
    in_flight: list[int]
    batch: list[int]
    startable: list[int]
    candidates: list[int]


Answer = tuple[list[float], list[bool] | None]
"""Every row's score, and whether the request could start there soon; None: it could anywhere."""

small_policies: Registry[Rows, Answer] = Registry("dispatch policy for small fleets")


@small_policies.register("freeness", FreenessParams)
def by_freeness(rows: Rows, params: FreenessParams) -> Answer:
    """Send to the instance that can keep decoding longest (the paper's policy)."""
    scores = []
    # What is startable is the room there is, but for the headroom.
    rooms = rows.startable
    if rows.headroom is not None:
        rooms = [room - kept for room, kept in zip(rooms, rows.headroom, strict=True)]
    for room, terminating, running, batch in zip(
        rooms, rows.terminating, rows.running, rows.batch, strict=True
    ):
        sharing = batch if room > 0 and not terminating else running
        scores.append((-_INFINITE if terminating else room) / (sharing if sharing > 1 else 1))
    if not params.late_binding:
        return scores, None
    growth, prompt = params.growth_steps, rows.request.prompt_tokens
    ready = [
        startable - growth * batch >= prompt
        for startable, batch in zip(rows.startable, rows.batch, strict=True)
    ]
    return scores, ready


@small_policies.register("load-aware", NoParams)
def by_load(rows: Rows, _: NoParams) -> Answer:
    """Send to the instance with the least memory used or requested (INFaaS++)."""
    shares = zip(rows.startable, rows.capacity, strict=True)
    return [startable / max(1, capacity) for startable, capacity in shares], None


@small_policies.register("least-requests", NoParams)
def by_requests(rows: Rows, _: NoParams) -> Answer:
    """Send to the instance with the fewest requests running, waiting or on their way."""
    return [-float(batch) for batch in rows.batch], None


@small_policies.register("round-robin", NoParams)
def in_turn(rows: Rows, _: NoParams) -> Answer:
    """Send to each instance in turn."""
    return _only(rows, [rows.turn % len(rows.candidates)]), None


@small_policies.register("random", NoParams)
def by_chance(rows: Rows, _: NoParams) -> Answer:
    """Send to a random instance (the same draws for the same seed)."""
    return _only(rows, [chance(rows.seed, rows.turn, len(rows.candidates))]), None


@small_policies.register("power-of-two", NoParams)
def better_of_two(rows: Rows, _: NoParams) -> Answer:
    """Draw two random instances and send to the one with fewer requests."""
    n = len(rows.candidates)
    first = chance(rows.seed, 2 * rows.turn, n)
    second = (first + 1 + chance(rows.seed, 2 * rows.turn + 1, n - 1)) % n if n > 1 else first
    either = zip(_only(rows, [first, second]), rows.batch, strict=True)
    return [score - batch for score, batch in either], None


def _only(rows: Rows, choices: Sequence[int]) -> list[float]:
    """Score 0 for the chosen candidates (by position), minus infinity for all others."""
    scores = [-_INFINITE] * len(rows.capacity)
    for choice in choices:
        scores[rows.candidates[choice]] = 0.0
    return scores


@dataclass(frozen=True, slots=True)
class Still:
    """What of a snapshot stays as it is until an instance reports, in plain numbers.

    `shared` counts the requests that run or wait, `room` the tokens not used or asked for.
    """

    capacity: list[int]
    running: list[int]
    waiting: list[int]
    headroom: list[int] | None
    terminating: list[bool]
    shared: list[int]
    room: list[int]
    any_terminating: bool
    smallest: int


def still(fleet: FleetSnapshot, headroom_tokens: IntColumn | None) -> Still:
    """Turn what stays of a raw snapshot into plain numbers; None where no class has headroom."""
    running = over_classes(fleet.class_running).tolist()
    waiting = over_classes(fleet.class_waiting).tolist()
    capacity = fleet.capacity_tokens.tolist()
    used = (fleet.physical_tokens + fleet.reserved_tokens + fleet.queued_demand_tokens).tolist()
    terminating = fleet.terminating.tolist()
    return Still(
        capacity,
        running,
        waiting,
        None
        if headroom_tokens is None
        else headroom_usage(fleet.class_running, headroom_tokens).tolist(),
        terminating,
        list(map(sum, zip(running, waiting, strict=True))),
        [size - held for size, held in zip(capacity, used, strict=True)],
        any(terminating),
        min(capacity, default=0),
    )


def is_still(before: FleetSnapshot, now: FleetSnapshot) -> bool:
    """Whether `still` has the same to say of two snapshots: they share columns for good."""
    return (
        before.class_running is now.class_running
        and before.class_waiting is now.class_waiting
        and before.capacity_tokens is now.capacity_tokens
        and before.physical_tokens is now.physical_tokens
        and before.reserved_tokens is now.reserved_tokens
        and before.queued_demand_tokens is now.queued_demand_tokens
        and before.terminating is now.terminating
        and not now.class_running.flags.writeable
        and not now.capacity_tokens.flags.writeable
    )


def read(
    request: DispatchRequest,
    rests: Still,
    in_flight: tuple[list[int], list[int]],
    turn: int,
    seed: int,
) -> Rows:
    """Make rows of what stays and of what is on its way: requests, and tokens.

    Without candidates: `exclude` finds those.
    """
    requests, tokens = in_flight
    return Rows(
        request,
        turn,
        seed,
        rests.capacity,
        rests.running,
        rests.waiting,
        rests.headroom,
        rests.terminating,
        requests,
        [here + flies for here, flies in zip(rests.shared, requests, strict=True)],
        [room - flies for room, flies in zip(rests.room, tokens, strict=True)],
        [],
    )


def exclude(
    rows: Rows, rests: Still, fleet: FleetSnapshot, max_age_s: float
) -> dict[InstanceId, str]:
    """Find the rows the request may be dispatched to, and say why each other row is excluded.

    The rules, their order and their words are those of `policies.vetoes.candidates`.
    """
    ids, request = fleet.ids, rows.request
    vetoed: dict[InstanceId, str] = {}
    allowed = list(range(len(ids)))
    if rests.any_terminating:
        vetoed = {ids[row]: "terminating" for row in allowed if rows.terminating[row]}
        allowed = [row for row in allowed if not rows.terminating[row]]
    model = request.model
    if model is not None:
        serves = [group.serves(model) for group in fleet.groups]
        if not all(serves):
            fitting = [serves[group] for group in fleet.group.tolist()]
            reason = f"it does not serve {model}"
            vetoed |= {ids[row]: reason for row, fits in enumerate(fitting) if not fits}
            allowed = [row for row in allowed if fitting[row]]
    ages, prompt = fleet.age_s.tolist(), request.prompt_tokens
    if ages and max(ages) > max_age_s:
        spared = [row for row in allowed if not ages[row] > max_age_s]
        reason = f"its report is older than {max_age_s:g} s"
        allowed = _spare(allowed, spared, reason, ids, vetoed)
    if rests.smallest < prompt and ids:
        spared = [row for row in allowed if not rows.capacity[row] < prompt]
        allowed = _spare(allowed, spared, f"smaller than {prompt} tokens", ids, vetoed)
    rows.candidates = allowed
    return vetoed


def _spare(
    allowed: list[int],
    spared: list[int],
    reason: str,
    ids: Sequence[InstanceId],
    vetoed: dict[InstanceId, str],
) -> list[int]:
    """Avoid rows only while there are others."""
    if not spared:
        return allowed
    kept = set(spared)
    vetoed |= {ids[row]: reason for row in allowed if row not in kept}
    return spared


def choose(rows: Rows, answer: Answer) -> int:
    """Choose a row among the candidates (at least one), or HOLD, as `policies.columns.choose`."""
    scores, ready = answer
    eligible = rows.candidates
    if ready is not None:
        eligible = [row for row in rows.candidates if ready[row]]
        if not eligible:
            eligible = [row for row in rows.candidates if not rows.batch[row]]
        if not eligible:
            prompt = rows.request.prompt_tokens
            if any(rows.capacity[row] >= prompt for row in rows.candidates):
                return HOLD
            eligible = rows.candidates
    most = max([scores[row] for row in eligible])
    best = [row for row in eligible if scores[row] == most]
    if len(best) > 1:
        pending = [rows.in_flight[row] + rows.waiting[row] for row in best]
        fewest = min(pending)
        best = [row for row, count in zip(best, pending, strict=True) if count == fewest]
    return best[rows.turn % len(best)]
