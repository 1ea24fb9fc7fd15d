"""What the experiments of the paper are run with (benchmarks/paper_parts/plan.py)."""

import subprocess
import sys

# In a process of its own: the plan registers a policy and a preset of its own.
HEADROOMS = """
from benchmarks.paper_parts.plan import config_of, plan

for run in plan(10, 1):
    classes = config_of(run).scheduler.classes
    print(run.policy, *(f"{known.name}={known.headroom_tokens}" for known in classes), sep="|")
"""


def test_the_papers_headroom_does_not_hang_on_our_defaults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEADROOMS], capture_output=True, text=True, timeout=60, check=True
    )
    rows = {tuple(line.split("|")) for line in done.stdout.splitlines()}

    assert {policy for policy, *_ in rows} >= {"Llumnix", "class order", "round-robin"}
    for policy, *classes in rows:
        headroom = 0 if policy == "class order" else 12_016
        assert classes == [f"high={headroom}", "normal=0"]
