"""What a first model runner's request begins with when it was resumed: outputs and generator."""

from typing import Any

import pytest
import torch
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from migration.vllm.tags import RESUME
from migration.vllm.worker import runner_v1

VOCABULARY = 300

current_platform.import_kernels()
runner_v1.patch(VOCABULARY)
runner_v1.patch(VOCABULARY)


def begun(resume: object, seed: int | None = 5, **extra: Any) -> CachedRequestState:
    generator = None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    params = {} if resume is None else {"kv_transfer_params": resume}
    return CachedRequestState(
        req_id="r",
        prompt_token_ids=[1, 2, 3],
        mm_features=[],
        sampling_params=SamplingParams(seed=seed, extra_args=params or None),
        generator=generator,
        block_ids=([0],),
        num_computed_tokens=0,
        output_token_ids=[],
        **extra,
    )


def resumed(outputs: list[int]) -> dict[str, Any]:
    return {RESUME: {"output_token_ids": outputs}}


@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize("k", [1, 2, 7, 33])
def test_the_next_draws_are_those_of_a_request_that_never_moved(k: int, neighbours: int) -> None:
    """Drawn by this vLLM's own sampler, alone and in a batch; top-k and top-p do not matter."""
    sampler = TopKTopPSampler()
    unmoved = torch.Generator().manual_seed(5)
    other = torch.Generator().manual_seed(6)

    def sample(generator: torch.Generator, noise: int) -> int:
        torch.manual_seed(noise)
        logits = torch.randn(1 + neighbours, VOCABULARY)
        generators = {0: generator} | ({1: other} if neighbours else {})
        tops = torch.full((1 + neighbours,), 50, dtype=torch.int64)
        return int(sampler.forward_cpu(logits, generators, tops, None)[0][0])

    for step in range(k):
        sample(unmoved, step)
    moved = begun(resumed(list(range(k)))).generator
    assert moved is not None
    assert torch.equal(moved.get_state(), unmoved.get_state())
    assert [sample(moved, n) for n in range(5)] == [sample(unmoved, n) for n in range(5)]


def test_outputs_are_there_and_counted() -> None:
    state = begun(resumed([7, 8]))
    assert state.output_token_ids == [7, 8]
    assert state.num_tokens == 5
    assert state.num_prompt_tokens == 3


def test_a_request_without_a_seed_has_no_generator_to_advance() -> None:
    assert begun(resumed([7]), seed=None).generator is None


@pytest.mark.parametrize(
    "params", [None, {}, "text", {RESUME: None}, {RESUME: "x"}, {RESUME: {}}, resumed([])]
)
def test_any_other_request_is_not_touched(params: object) -> None:
    state = begun(params)
    assert state.output_token_ids == []
    assert state.generator is not None
    assert torch.equal(state.generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_a_device_generator_is_moved_by_its_offset() -> None:
    class Device:
        class device:  # noqa: N801 (as torch has it)
            type = "cuda"

        offset = 8

        def get_offset(self) -> int:
            return self.offset

        def set_offset(self, offset: int) -> None:
            self.offset = offset

    generator: Any = Device()
    runner_v1.advance(generator, 3, lambda _: None)
    assert generator.offset == 8 + 3 * runner_v1.CUDA_OFFSET
