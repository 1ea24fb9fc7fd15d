"""Room for instances that come later."""

import numpy as np

from simulator.fast.roster import clear
from simulator.fast.state import WIDTH, State


def one_more(s: State, at: int) -> State:
    """Make room for instance `at`, which is one more than there are; it is yet to be started."""
    width = int(s.par[WIDTH])
    if isinstance(s.own, np.ndarray):
        # As `new_state` has it: a row lies together.
        ins = np.zeros((at + 1, len(s.ins)), dtype=np.int64)
        ins[:at] = s.ins.T[:at]
        s = s._replace(ins=ins.T, own=np.append(s.own, np.zeros(width, dtype=np.int64)))
    else:
        for column in s.ins:
            column.append(0)
        s.own.extend([0] * width)
    clear(s, at)
    return s
