"""The layout of a fleet in columns: the names of the columns, and their memory.

A table is a list of columns, with one number per request (`State.req`), instance (`State.ins`) or
row of the last reports (`State.col`). In plain Python a column is a list; compiled, it is a row of
a 2-D array. Both are read and written as `table[COLUMN][row]`. The names are module constants,
which numba inlines. Times are in ns.
"""

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.engine.roster import EngineLimits

NEVER = 1 << 62

# --- a request; what every step reads comes first, and so is contiguous ---
(
    PROMPT,
    TARGET,  # output tokens it will have
    OUT,  # output tokens so far
    KV,
    FITS_TOKENS,  # tokens that fit in its blocks
    CHUNK,  # tokens the current step computes for it
    LAST,
    LONGEST,
    WAITS_FOR,  # what the gap before its next token comes after
    CLASS,
    ARRIVED,
    FATE,
    AT,  # its present or last instance
    PLACE,
    ORDER,  # how many came to that instance before it
    LEAVING,  # 1: to be detached at the next boundary
    MOVING,  # 1: a llumlet watches this request
    NEXT,
    PREV,
    FIRST,
    PREEMPTIONS,
    PREEMPTED,
    PREEMPTION_LOSS_NS,
    INTERFERENCE,
    INTERFERENCE_AT_JOIN_NS,  # what its instance's decodes had suffered when it joined them
    ADMITTED,
    DISPATCHED,
    RESTARTS,
    MOVE_GAP,
    SENT_TO,  # the instance it was sent to, plus 1
    SENT_SIZE,  # tokens it had then
    SENT_WHEN,  # the number of reports at that time
    IN_COHORT,  # 1: what changes with every step is counted for the whole cohort
    OFFSET,  # its output tokens less the ticks of its instance
    JOINED,  # the tick at which it joined
    GUESSED,  # the byte of `State.prompt_keys` with how many guesses before an output are right
    # Not of the request of this row, but of all together:
    BY_ARRIVAL,  # the request that comes after so many others
    LINE_UP,  # those the front door holds, the next to be served first; never all of them
) = range(38)
FIRST_SHARED = 38

# --- a request, where instances share prefixes: columns that are absent otherwise ---
(
    CACHED,  # tokens found when it was first admitted
    FOUND,  # blocks found when it was last admitted
    OWN,  # the last of the blocks it did not find, which form a ring; or -1
    KEPT,  # how many of its blocks have their content noted
    LAST_KEPT,  # the last of its own among these, or -1
    KEY_TOKENS,  # tokens of its prompt to an entry of `State.prompt_keys`; 0: nothing is known
    KEYS_AT,  # its first entry there
    ALIKE,  # how many of its blocks may be shared
    OWN_KEYS,  # the key its first block would have if it were not shared
    PROMPT_TURN,  # its place among the prompts of the current step, from 1; 0: it is not there
) = range(FIRST_SHARED, FIRST_SHARED + 10)
REQ_COLUMNS = FIRST_SHARED + 10

WAITING, RUNNING, FINISHED, REJECTED = range(4)  # FATE
GONE, QUEUED, BATCH, DETACHED, COMING = range(5)  # PLACE
AFTER_MOVE, AFTER_PREEMPTION = 1, 2  # WAITS_FOR

# --- an instance; the columns by class come after all others ---
(
    ALIVE,
    ROW,  # of the reports
    SIZE,  # of the batch
    FREE,  # blocks
    ALLOCATED,
    RESERVED,
    RESERVATIONS,
    DETACHED_COUNT,
    ARRIVALS,
    QUEUED_BLOCKS,
    QUEUE_LENGTH,
    STEPPING,  # 1: a step is under way
    START,
    END,
    RUN,  # steps planned, all alike
    COST,  # of the first of them
    DECODES,
    CONTEXTS,  # of the decodes in the first of them
    COPIES,
    WATCHED,  # requests that are MOVING
    WOKEN,
    REPORT_AT,
    EARLIEST,  # when a request that no report has counted could be over
    STEPS,
    BUSY,
    SEEN,  # the number of reports at its last
    INTERFERENCE_NS,  # by how much prompts have lengthened the steps of its decodes
    RUN_START,  # the last long run: its beginning, steps, decodes and contexts
    RUN_STEPS,
    RUN_DECODES,
    RUN_CONTEXTS,
    ENDS,  # how many of the columns from STEP_ENDS on are filled, since that run
    CAME,  # requests too late for the next step, scheduled ahead: how many, the first, the last
    FIRST_CAME,
    LAST_CAME,
    APART,  # how many of the batch are not of the cohort
    COHORT,  # how many are
    COHORT_CONTEXTS,
    TICKS,  # steps counted
    FINISH_TICK,  # when the first of the cohort has all its tokens
    LAST_END,  # of the step counted last
    GAPS,
    TO_WAKE,  # not of the instance of this row, but a list
) = range(43)
STEP_ENDS = 43
KEPT_ENDS = 5
KEPT_GAPS = 24
BY_CLASS = STEP_ENDS + KEPT_ENDS
CLASS_COLUMNS = 4
HEAD, TAIL, LINE, HERE = range(CLASS_COLUMNS)  # first and last in line, how many, how many run

# --- a block, where instances share prefixes ---
(
    HOLDERS,
    CONTENT,  # the key of its content, or -1
    AFTER,  # in its ring: that of the free blocks, of a request or of a reservation
    BEFORE,
    AFTER_ALIKE,  # among those with content that lie in one bucket; -1 behind the last
    BEFORE_ALIKE,  # of the first of a bucket: the last
    BUCKET,  # not of the block of this row: the first of the bucket of this number, or -1
) = range(7)
BLOCK_COLUMNS = 7

# --- what was last reported, and what was sent since; one row per live instance ---
(
    CAPACITY,
    PHYSICAL,
    RESERVED_TOKENS,
    HEADROOM,
    HEAD_DEMAND,
    QUEUED_DEMAND,
    BACKLOG,
    RUNS,
    WAITS,
    SENT_TOKENS,
    SENT_REQUESTS,
    SOURCE,
    REPORTED,
    SLOT,
    TERMINATING,  # 1: it is drained
) = range(15)
COL_BY_CLASS = 15

# --- parameters, and from FIRST_HEADROOM on headroom by class ---
(
    BLOCK_TOKENS,
    TOTAL_BLOCKS,
    MAX_SEQS,
    TOKEN_BUDGET,
    CLASSES,
    SLOWDOWN,  # per mille
    REPORT_EVERY,
    REBALANCE_EVERY,
    DOOR_ASKS,  # 1: the front door is asked about every arrival and placement
    POLICY,
    LATE_BINDING,
    MIGRATION,
    LOOKING,
    PATIENCE,  # turns of the loop before it returns to Python
    LEAST_STEP,  # divided by the most tokens it may yield
    AHEAD,  # 1: a step is planned when the one before begins
    DRAFT_TOKENS,  # guessed for each decode of a step
    DRAFTING_NS,  # what guessing takes in a step
    COHORTS,  # 1: there may be some
    REQUESTS,
    SHARES,  # 1: instances share prefixes
    SCALING,
    WIDTH,  # of an instance's part of `State.batches`
    ASKED_AT,  # where in `State.prompt_keys` it is noted which blocks were asked for
    NOTES_AT,  # where in `State.fleet` the notes begin
) = range(20, 45)
(
    IDLE_AFTER,  # how many had arrived when the fleet was last found without work; -1: unknown
    IDLE_SINCE,
) = range(45, 47)
FIRST_HEADROOM = 47

BY_PYTHON, BY_FREENESS, BY_LOAD, BY_REQUESTS, IN_TURN = range(5)  # POLICY
GROWTH_STEPS, LOW_STEPS, RELEASE_STEPS, HIGH_STEPS, SHOWN_S = range(5)  # in `State.real`

# --- the moment ---
(
    NOW,
    OPEN,
    ARRIVALS_DONE,
    NEXT_REPORT,
    NEXT_REPORTER,
    NEXT_REBALANCE,
    TURN,
    HELD,  # requests at the front door
    LINED_UP,  # how many of them stand in LINE_UP
    SERVED,  # how many of those have been served since
    HELD_BACK,  # the request held back last, or -1
    HELD_BACK_AT,
    SUBJECT,  # the request or instance a return code is about
    ORDERS,  # migrations ordered and not ended
    NOTES,
    WOKEN_COUNT,
    WATCHED_COUNT,
    REPORTS,
    EARLIEST_OF_ALL,
    DEMANDS,  # how often the demand of a line was summed up
) = range(20)

# --- notes for a llumlet, in pairs (what, request) ---
NOTE_FINISHED, NOTE_PREEMPTED, NOTE_DETACHED = range(3)


class State(NamedTuple):
    """A whole fleet.

    `fleet` has the time, the parameters, and the notes. `batches` has a part per instance: its
    batch in MAX_SEQS places, most urgent first; those of it outside any cohort, in as many places
    and the same order; then the `crossings` and the `gaps` of `engine.cohort`. `prompt_keys` is
    what the workload gave beforehand, by KEYS_AT and GUESSED, and notes on it. Compiled functions
    pass a State array by array, which costs more than much of their work: the fewer, the better.
    """

    req: Any
    ins: Any
    col: Any
    fleet: Any
    real: Any
    cost: Any
    batches: Any
    prompt_keys: Any
    blocks: Any


def new_state(
    columns: Sequence[Sequence[int]],
    instances: int,
    limits: EngineLimits,
    cost: Sequence[int],
    *,
    arrays: bool,
) -> State:
    """Return a fleet that has not started; `columns` has prompt, target, class, arrival."""
    prompt, _, _, arrived = columns
    n, classes = len(prompt), limits.classes
    by_arrival = np.argsort(np.array(arrived, dtype=np.int64), kind="stable").tolist()
    blank = _table(REQ_COLUMNS if limits.prefix_caching else FIRST_SHARED, n, arrays)
    for column, values in zip((PROMPT, TARGET, CLASS, ARRIVED), columns, strict=True):
        blank[column][:n] = values
    blank[BY_ARRIVAL][:n] = by_arrival
    ins = _table(BY_CLASS + CLASS_COLUMNS * classes, instances, arrays)
    for column in (REPORT_AT, EARLIEST):
        ins[column][:] = [NEVER] * len(ins[column])
    fleet = _fleet_numbers(n, limits)
    sharers = instances if limits.prefix_caching else 0
    return State(
        req=blank,
        ins=ins,
        col=np.zeros((COL_BY_CLASS + 2 * classes, 0), dtype=np.int64),
        fleet=_vector(fleet, arrays),
        real=np.zeros(5) if arrays else [0.0] * 5,
        cost=_vector(cost, arrays),
        batches=_vector([0] * (instances * fleet[WIDTH]), arrays),
        prompt_keys=np.zeros(0, dtype=np.int64) if arrays else array("q"),
        blocks=_table(BLOCK_COLUMNS, sharers * (fleet[TOTAL_BLOCKS] + 1), arrays),
    )


def _fleet_numbers(requests: int, limits: EngineLimits) -> list[int]:
    fleet = [0] * (FIRST_HEADROOM + limits.classes + 4 * limits.max_num_seqs)
    fleet[BLOCK_TOKENS], fleet[MAX_SEQS] = limits.block_tokens, limits.max_num_seqs
    fleet[TOTAL_BLOCKS] = limits.capacity_tokens // limits.block_tokens
    fleet[TOKEN_BUDGET], fleet[CLASSES] = limits.token_budget, limits.classes
    fleet[SHARES], fleet[COHORTS] = int(limits.prefix_caching), int(not limits.prefix_caching)
    fleet[REQUESTS] = fleet[OPEN] = requests
    fleet[HELD_BACK] = fleet[IDLE_AFTER] = -1
    fleet[WIDTH] = 2 * limits.max_num_seqs + limits.block_tokens + 2 * KEPT_GAPS
    fleet[NOTES_AT] = FIRST_HEADROOM + limits.classes
    return fleet


def tell(s: State, numbers: NDArray[np.int64]) -> tuple[State, int]:
    """Record what the workload gives beforehand; return where in `prompt_keys` it begins."""
    begins = len(s.prompt_keys)
    if isinstance(s.prompt_keys, np.ndarray):
        return s._replace(prompt_keys=np.concatenate([s.prompt_keys, numbers])), begins
    # Possibly millions of numbers: a list would take four times the memory.
    s.prompt_keys.frombytes(numbers.tobytes())
    return s, begins


def take_notes(s: State) -> list[tuple[int, int]]:
    """Take the notes that were left: of the requests gone, then of those detached."""
    left = int(s.fleet[NOTES])
    s.fleet[NOTES] = 0
    first = s.fleet[NOTES_AT]
    words = [int(word) for word in s.fleet[first : first + 2 * left]]
    notes = zip(words[::2], words[1::2], strict=True)
    return sorted(notes, key=lambda note: note[0] == NOTE_DETACHED)


def _vector(values: Sequence[int], arrays: bool) -> Any:
    return np.array(values, dtype=np.int64) if arrays else list(values)


def _table(columns: int, rows: int, arrays: bool) -> Any:
    if arrays:
        # A row is contiguous, in few cache lines. Two rows at least: compiled code expects arrays
        # laid out this way, and the layout of one row is ambiguous.
        return np.zeros((max(2, rows), columns), dtype=np.int64).T
    return [[0] * rows for _ in range(columns)]
