"""When an instance's last few steps ended, from which its llumlet estimates the step time.

A long run is kept as such; later steps, one by one. Pauses do not count as steps.
"""

from simulator.kernel.engine.runs import line_at, run_ns
from simulator.kernel.state import (
    CONTEXTS,
    DECODES,
    ENDS,
    KEPT_ENDS,
    MIGRATION,
    RUN_CONTEXTS,
    RUN_DECODES,
    RUN_START,
    RUN_STEPS,
    START,
    STEP_ENDS,
    State,
)

IDLE_NS = 2_000_000_000
"""A longer gap is a pause, not a step: `migration.protocol.pacing.IDLE_S`."""


def keep_ends(s: State, i: int, steps: int, end_ns: int) -> None:
    """Record when the last few steps ended, for `step_ends`: of a long run, the run."""
    if not s.fleet[MIGRATION]:
        return
    ins = s.ins
    if steps >= KEPT_ENDS:
        ins[RUN_START][i], ins[RUN_STEPS][i] = ins[START][i], steps
        ins[RUN_DECODES][i], ins[RUN_CONTEXTS][i] = ins[DECODES][i], ins[CONTEXTS][i]
        ins[ENDS][i] = 1
        ins[STEP_ENDS][i] = end_ns
        return
    if steps > 1:
        extra, fixed, slope, per = line_at(s.cost, ins[DECODES][i], ins[CONTEXTS][i])
        for step in range(1, steps):
            took_ns = run_ns(extra, fixed, slope, per, ins[DECODES][i], ins[CONTEXTS][i], step)
            _keep_end(s, i, ins[START][i] + took_ns)
    _keep_end(s, i, end_ns)


def _keep_end(s: State, i: int, end_ns: int) -> None:
    ins = s.ins
    kept = ins[ENDS][i]
    if kept and end_ns - ins[STEP_ENDS + kept - 1][i] >= IDLE_NS:
        kept = ins[RUN_STEPS][i] = 0
    if kept == KEPT_ENDS:
        ins[RUN_STEPS][i] = 0
        for at in range(KEPT_ENDS - 1):
            ins[STEP_ENDS + at][i] = ins[STEP_ENDS + at + 1][i]
        kept -= 1
    ins[STEP_ENDS + kept][i] = end_ns
    ins[ENDS][i] = kept + 1


def step_ends(s: State, i: int) -> list[int]:
    """Return when the last few steps ended, without pauses; for `pacing.StepTime`."""
    ins = s.ins
    ends = [int(ins[STEP_ENDS + at][i]) for at in range(int(ins[ENDS][i]))]
    steps = int(ins[RUN_STEPS][i])
    if steps:
        decodes, contexts = int(ins[RUN_DECODES][i]), int(ins[RUN_CONTEXTS][i])
        line = line_at(s.cost, decodes, contexts)
        earlier = range(max(1, steps - KEPT_ENDS + len(ends)), steps)
        start_ns = int(ins[RUN_START][i])
        ends = [start_ns + run_ns(*line, decodes, contexts, step) for step in earlier] + ends
    return ends
