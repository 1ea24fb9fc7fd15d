"""How well fitted costs predict held-out requests: k-fold over time, by simulation.

The requests are cut into blocks by arrival. For each, costs are fitted to the requests outside it;
then all are served again in simulation, given only arrivals and lengths, and the means of the
block's times are compared. The block's requests still load the others' steps in the fit: without
them a step's cost could not be determined.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulator.calibration.fit import Fit, Mask, fit
from simulator.calibration.measured import Measured
from simulator.calibration.rerun import rerun
from simulator.engine.roster import EngineLimits

MEASURES = ("e2e", "tpot", "ttft")
# A request that waited longer than so many steps found the batch full.
WAITED_STEPS = 20


@dataclass(frozen=True, slots=True)
class EngineSize:
    """The engine settings that limit its batches; `capacity_tokens` None: never a limit."""

    max_num_seqs: int
    capacity_tokens: int | None = None
    block_tokens: int = 16

    def limits(self, measured: Measured, token_budget: int) -> EngineLimits:
        """Turn it into limits with which these requests can be served."""
        largest = int((measured.prompt_tokens + measured.output_tokens).max())
        ample = self.max_num_seqs * (largest + self.block_tokens)
        return EngineLimits(
            capacity_tokens=self.capacity_tokens or ample,
            block_tokens=self.block_tokens,
            max_num_seqs=self.max_num_seqs,
            token_budget=max(token_budget, self.max_num_seqs),
        )


def largest_batch(measured: Measured) -> int:
    """Infer the engine's limit from the most requests at once, if any had to wait.

    Where none had to, the limit did not show, and twice that number is returned.
    """
    times = np.concatenate([measured.scheduled_s, measured.last_s])
    change = np.repeat([1, -1], len(measured))
    order = np.lexsort((change, times))
    most = int(np.cumsum(change[order]).max())
    waited_s = float((measured.scheduled_s - measured.arrived_s).max())
    return most if waited_s > WAITED_STEPS * float(np.median(measured.tpot_s)) else 2 * most


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of simulated means, signed: 0.02 is 2 % too long."""

    requests: int
    e2e: float
    tpot: float
    ttft: float


def errors(
    measured: Measured, found: Fit, engine: EngineSize, of: Mask, *, ahead: bool = False
) -> Errors:
    """Serve all again at the fitted costs, and compare the means of some."""
    limits = engine.limits(measured, found.token_budget)
    simulated = rerun(measured, found.costs, limits, ahead=ahead)
    e2e, tpot, ttft = (
        float(getattr(simulated, name)[of].mean() / getattr(measured, name)[of].mean()) - 1.0
        for name in (f"{measure}_s" for measure in MEASURES)
    )
    return Errors(int(of.sum()), e2e, tpot, ttft)


def cross_validated(
    measured: Measured, found: Fit, engine: EngineSize, folds: int, *, ahead: bool = False
) -> list[Errors]:
    """Errors of each block of requests at costs fitted to all others.

    Budget and scheduling ahead are settings of the server, taken from the fit to all. `ahead` says
    whether the simulation schedules ahead as well (see `rerun`). Raises ValueError when there are
    fewer than two folds, or too few requests for them.
    """
    if not 2 <= folds <= len(measured) // 2:
        raise ValueError(
            f"{folds} folds of {len(measured)} requests: give at least 2, of 2 requests or more"
        )
    found_without = (
        (block, fit(measured, found.token_budget, found.ahead, ~block))
        for block in _blocks(len(measured), folds)
    )
    return [errors(measured, one, engine, block, ahead=ahead) for block, one in found_without]


def _blocks(requests: int, folds: int) -> Iterator[Mask]:
    for part in np.array_split(np.arange(requests), folds):
        block = np.zeros(requests, dtype=np.bool_)
        block[part] = True
        yield block
