"""What this machine carries, found out before the demo: a few seconds of the work it will do."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from llumnix.loadgen import Endpoint, LoadOptions, PromptSource, run_load
from llumnix.loadgen.probe import between, probe
from llumnix.processes.frontend_process import launched_frontend
from llumnix.testbed.trial import Launchable, PolicyChoice, when_up
from simulator.workload.request import TraceRequest

REHEARSED_S = 6.0
"""Wall seconds of load."""
PATIENCE_S = 25.0
"""Wall seconds until all is seen: a machine that needs longer carries little, and time is dear."""
_CROWD_S = 10.0
_CROWD_SPEED = 2.0
"""Requests of the first fleet seconds come this much sooner: a fleet at work, but no stampede,
which would show what no run meets."""


async def rehearse(
    shape: Launchable,
    policy: PolicyChoice,
    requests: Sequence[TraceRequest],
    prompts: PromptSource,
) -> float | None:
    """Start a fleet, send it the workload's first requests for a while, and see how late it is.

    Return how late one step in a hundred was at least, in decode steps; None if it took longer
    than `PATIENCE_S` to see.

    Raises LaunchError when the fleet does not start or stays down.
    """
    try:
        async with (
            asyncio.timeout(PATIENCE_S) as patience,
            launched_frontend(shape.serve_arguments(policy), shape.log_dir) as url,
        ):
            endpoint = Endpoint.parse(url)
            before = await when_up(endpoint)
            options = LoadOptions(
                model=before.model, speed=shape.speed, prompts=prompts, return_token_ids=True
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(REHEARSED_S):
                    await run_load(crowded(requests), endpoint, options)
            fleet = between(before, await probe(endpoint))
            patience.reschedule(None)  # stopping the fleet is not to be cut short
    except TimeoutError:
        return None
    return fleet.late_p99_steps or 0.0


def crowded(requests: Sequence[TraceRequest]) -> list[TraceRequest]:
    """Bring a workload forward, its first requests closer together: there is no time to fill up."""
    ahead_s = _CROWD_S - _CROWD_S / _CROWD_SPEED
    return [
        replace(each, arrival_s=max(each.arrival_s / _CROWD_SPEED, each.arrival_s - ahead_s))
        for each in requests
    ]
