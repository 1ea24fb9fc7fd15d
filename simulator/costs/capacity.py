"""The fluid bound: the request rate at which perfectly placed, never idle instances are just full.

It ignores queueing, preemption and placement, so the rate at which queues really start to grow (the
knee) is somewhat below it. It gives workloads of different lengths a common scale of load.
"""

from collections.abc import Sequence

import numpy as np

from simulator.costs.presets import CostModel
from simulator.workload.request import TraceRequest


def fluid_rate_per_s(
    requests: Sequence[TraceRequest], costs: CostModel, capacity_tokens: int, instances: int
) -> float:
    """Compute the bound in requests per second for the lengths of these requests.

    An instance's memory is always full of contexts of the mean held length, so a decode step
    yields `capacity / mean context` tokens; a prompt costs its prefill on top.
    Raises ValueError when there is no request.
    """
    if not requests:
        raise ValueError("the fluid bound of no requests is undefined")
    prompt = np.array([one.prompt_tokens for one in requests], dtype=np.float64)
    output = np.array([one.output_tokens for one in requests], dtype=np.float64)
    # Contexts weighted by how long they are held: one step per output token.
    mean_context = ((prompt + output / 2) * output).sum() / output.sum()
    batch = max(1.0, capacity_tokens / mean_context)
    step_ns = costs.step_ns((), round(batch), capacity_tokens)
    decode_ns = output.sum() / batch * step_ns
    prefill_ns = costs.prefill_ns(int(prompt.sum()), int((prompt * prompt).sum()))
    return float(instances * len(requests) / ((decode_ns + prefill_ns) * 1e-9))
