"""Room for instances that join later."""

import numpy as np
from numpy.typing import NDArray

from simulator.kernel.engine.roster import clear
from simulator.kernel.state import SHARES, TOTAL_BLOCKS, WIDTH, State

Table = NDArray[np.int64]


def one_more(s: State, at: int) -> State:
    """Make room for instance `at`, which is one more than there are; it is yet to be started."""
    width, blocks = int(s.fleet[WIDTH]), int(s.fleet[SHARES] * (s.fleet[TOTAL_BLOCKS] + 1))
    if isinstance(s.batches, np.ndarray):
        s = s._replace(
            ins=_longer(s.ins, at + 1 - s.ins.shape[1]),
            batches=np.append(s.batches, np.zeros(width, dtype=np.int64)),
            blocks=_longer(s.blocks, blocks),
        )
    else:
        for column in s.ins:
            column.append(0)
        for column in s.blocks:
            column.extend([0] * blocks)
        s.batches.extend([0] * width)
    clear(s, at)
    return s


def _longer(table: Table, more: int) -> Table:
    """Add rows to a table, contiguous as in `new_state`."""
    return np.concatenate([table.T, np.zeros((more, len(table)), dtype=np.int64)]).T
