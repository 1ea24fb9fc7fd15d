"""What vLLM's first model runner needs to resume a request: its outputs, and its generator's state.

It builds a request's state from the prompt alone (`CachedRequestState(output_token_ids=[])`,
v1/worker/gpu_model_runner.py) and seeds its generator anew. The second runner takes all tokens from
the scheduler, and its noise depends on the position alone: it needs nothing of this.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from migration.vllm.tags import RESUME

CUDA_OFFSET = 4
"""How far one draw advances a CUDA generator; vLLM itself rolls draws back by it."""

_MARK = "_llumnix_patched"


def patch(vocab_size: int) -> None:
    """Make resumed requests begin with the outputs they had; others are not touched. Once."""
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

    if getattr(CachedRequestState, _MARK, False):
        return
    original = CachedRequestState.__post_init__
    draw = cpu_draw(vocab_size)

    def post_init(state: Any) -> None:
        outputs = resumed_outputs(state)
        if outputs and not state.output_token_ids:
            state.output_token_ids = outputs
            advance(state.generator, len(outputs), draw)
        original(state)

    CachedRequestState.__post_init__ = post_init
    setattr(CachedRequestState, _MARK, True)


def resumed_outputs(state: Any) -> list[int]:
    """Read the outputs a request had elsewhere off what the scheduler sent; [] for any other."""
    extra = getattr(state.sampling_params, "extra_args", None) or {}
    params = extra.get("kv_transfer_params")
    resume = params.get(RESUME) if isinstance(params, dict) else None
    return list(resume.get("output_token_ids") or ()) if isinstance(resume, dict) else []


def advance(
    generator: torch.Generator | None, tokens: int, draw: Callable[[torch.Generator], object]
) -> None:
    """Advance a generator to where it was after so many tokens: one draw each."""
    if generator is None:
        return
    if generator.device.type == "cpu":
        for _ in range(tokens):
            draw(generator)
    else:
        generator.set_offset(generator.get_offset() + CUDA_OFFSET * tokens)


def cpu_draw(vocab_size: int) -> Callable[[torch.Generator], object]:
    """Make one draw as this vLLM's CPU sampler does (v1/sample/ops/topk_topp_sampler.py).

    Up to 0.30 that is exponential noise over the vocabulary, later one integer.
    """
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    if "torch.randint" in inspect.getsource(TopKTopPSampler.forward_cpu):
        return lambda generator: torch.randint(
            0, 2**31, (1,), generator=generator, dtype=torch.long
        )
    noise = torch.empty(vocab_size, dtype=torch.float32)
    return lambda generator: noise.exponential_(generator=generator)
