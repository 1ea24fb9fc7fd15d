"""What numba makes of the kernel gives what stepping gives.

One test in a file of its own, which begins first: compiling takes minutes, once a machine.
"""

import pytest

from simulator.kernel.compiled import available
from tests.simulator.kernel.drawn_cases import case_of
from tests.simulator.kernel.fleet_cases import presets_for_cases

CASES = 40


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not available(), reason="numba is not installed: pip install llumnix-scheduler[fast]"
)
def test_compiled_code_gives_what_stepping_gives() -> None:
    with presets_for_cases():
        for seed in range(CASES):
            drawn = case_of(seed)
            assert drawn.fast(compile_it=True) == drawn.stepwise(), seed
