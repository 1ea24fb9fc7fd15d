"""A server's process: its garbage collector leaves alone what is there for good."""

import subprocess
import sys

SCRIPT = """
import gc
import weakref

from llumnix.processes.event_loop import run_async

class Knot:
    def __init__(self):
        self.itself = self

async def main():
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[2] >= 100
    knots = [Knot() for _ in range(1000)]
    gone = weakref.ref(knots[0])
    knots.clear()
    for _ in range(100_000):
        knots.append([])  # what dies young is still found, without being asked for
    assert gone() is None
    print("ran")

raise SystemExit(run_async(main()))
"""


def test_a_server_runs_with_a_calm_collector_that_still_collects() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )

    assert (run.returncode, run.stdout) == (0, "ran\n"), run.stderr
