"""The engine of the race: Llama-2-13B on a part of an H200, from the roofline, linearised.

Full attention heads make its KV large (0.8 MB per token). With vLLM's `gpu_memory_utilization` at
0.432 (as if another model shared the GPU), memory is occasionally near its limit at 6 requests per
second and instance, and far from it most of the time: nothing queues for long, yet round-robin has
requests preempted, and freeness occasionally moves one. Many instances balance each other better:
`MANY_TOKENS` has the same effect there. Where memory is tight, `TIGHT_TOKENS`, moves abound.
Requests are clipped to the model's context of 4,096 tokens.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from simulator.costs.files import preset_document
from simulator.costs.model import CostModel, LinearCosts, Preset
from simulator.costs.presets import preset_for
from simulator.costs.roofline_options import RooflineOptions

MODEL: Mapping[str, object] = {
    "_name_or_path": "llama-2-13b",
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
    "dtype": "float16",
}
GPU = "H200"
MEMORY_UTILIZATION = 0.43215
MANY_TOKENS = 42_720
TIGHT_TOKENS = 42_000
TOKEN_BUDGET = 512
_BATCHES = (1, 16, 32, 64, 128)
_MEAN_CONTEXTS = (256, 512, 1024, 2048)
_STARTS = (0, 512, 2048)


def write_preset(path: Path) -> tuple[Preset, float]:
    """Write the preset's file; return it, and the largest relative error of the linear costs."""
    exact = preset_for(MODEL, GPU, 1, RooflineOptions(memory_utilization=MEMORY_UTILIZATION))
    linear = fitted(exact.costs)
    made = replace(
        exact, costs=linear, source=f"{exact.source} Made linear for simulator_speed.py."
    )
    path.write_text(json.dumps(preset_document(made)))
    return made, largest_error(exact.costs, linear)


def fitted(costs: CostModel) -> LinearCosts:
    """Take the slopes of a cost model at usual steps."""
    batch, context = 32, 32 * 1024

    def decode(more_sequences: int, more_context: int) -> int:
        return costs.step_ns((), batch + more_sequences, context + more_context)

    def prefill(tokens: int, start: int = 0, beside: int = 0) -> int:
        return costs.step_ns(((start, tokens),), beside, 0)

    per_context = round((decode(0, 32_000) - decode(0, 0)) / 32_000)
    per_sequence = max(0, round((decode(32, 0) - decode(0, 0)) / 32))
    per_token = (prefill(512) - prefill(256)) / 256
    # Squares of a chunk of 512 tokens that starts at s: 512² + 1024 s.
    quadratic_ns = (prefill(512, 2048) - prefill(512)) / (1024 * 2048)
    linear_ns = round(per_token - quadratic_ns * (512**2 - 256**2) / 256)
    base = prefill(512) - linear_ns * 512 - round(quadratic_ns * 512**2)
    beside = round((prefill(384, beside=128) - prefill(384)) / 128)
    return LinearCosts(
        prefill_base_ns=max(0, base),
        prefill_per_token_ns=linear_ns,
        prefill_quadratic_ps=round(quadratic_ns * 1000),
        decode_base_ns=decode(0, 0) - per_context * context - per_sequence * batch,
        decode_per_context_ns=per_context,
        decode_per_sequence_ns=per_sequence,
        prefill_per_sequence_ns=max(0, beside - per_sequence),
    )


def largest_error(exact: CostModel, linear: CostModel) -> float:
    """Compare steps that only decode, and full steps with a prompt's chunk in them."""
    errors = [0.0]
    for batch, mean, start in itertools.product(_BATCHES, _MEAN_CONTEXTS, (None, *_STARTS)):
        chunks = () if start is None else ((start, TOKEN_BUDGET - batch),)
        want = exact.step_ns(chunks, batch, batch * mean)
        errors.append(abs(linear.step_ns(chunks, batch, batch * mean) / want - 1))
    return max(errors)
