"""The roofline gives hand-computed figures, and what is better is never slower."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.gpus import GPUS, Gpu, gpu_named
from simulator.costs.model_shape import read_shape
from simulator.costs.presets import preset, preset_for
from simulator.costs.roofline import RooflineCosts, roofline
from simulator.costs.roofline_options import Overlap, RooflineOptions

LLAMA_8B: dict[str, object] = {
    "_name_or_path": "llama-3.1-8b",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "torch_dtype": "bfloat16",
}
LLAMA_7B: dict[str, object] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32_000,
    "max_position_embeddings": 16_384,
}
MIXTRAL = LLAMA_8B | {"num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32_000}
PEAK = RooflineOptions(compute_efficiency=1.0, memory_efficiency=1.0)
SHAPE = read_shape(LLAMA_8B)


def at_peak(gpu: str, **changes: object) -> RooflineCosts:
    return roofline(SHAPE, gpu_named(gpu), options=replace(PEAK, **changes))  # type: ignore[arg-type]


def test_a_prompt_is_the_hand_computed_31_1_ms() -> None:
    """2,048 tokens of Llama-3.1-8B on an H100 at its peak: bound by computing, 30.8 TFLOP."""
    products = 2 * 2048 * 32 * (4096 * (2 * 32 + 2 * 8) * 128 + 3 * 4096 * 14336)
    attention = 32 * 2 * (2 * 32 * 128 * 2048 * 2048)
    flop = products + attention + 2 * 4096 * 128_256
    assert flop == pytest.approx(30.8e12, rel=0.002)
    cost_ns = at_peak("H100").step_ns([(0, 2048)], 0, 0)
    assert cost_ns == pytest.approx(flop / 989.5e12 * 1e9, rel=1e-6)
    assert cost_ns / 1e6 == pytest.approx(31.1, abs=0.05)


def test_a_decode_step_is_the_hand_computed_7_1_ms() -> None:
    """32 x 2,048 tokens of context: bound by memory, 15.0 GB of weights and 8.6 GB of KV."""
    weights = 2 * (32 * (4096 * (2 * 32 + 2 * 8) * 128 + 3 * 4096 * 14336) + 4096 * 128_256)
    kv = 32 * 2048 * 2 * 8 * 128 * 2 * 32
    per_token = (3 * 4096 + 3 * 14336) + (4096 + 2 * 1024 + 4096 + 2 * 1024) + 4096
    moved = weights + kv + 32 * per_token * 2 * 32
    cost_ns = at_peak("H100").step_ns([], 32, 32 * 2048)
    assert cost_ns == pytest.approx(moved / 3.35e12 * 1e9, rel=1e-6)
    assert cost_ns / 1e6 == pytest.approx(7.1, abs=0.05)


def test_overlap_orders_costs() -> None:
    """Overlapping all is at most overlapping within groups, which is at most none at all."""
    kinds: list[Overlap] = ["full", "operator", "none"]
    costs = [at_peak("H100", overlap=kind).step_ns([(0, 512)], 64, 64_000) for kind in kinds]
    assert costs == sorted(costs)
    assert len(set(costs)) == 3


def test_a_share_of_overlap_lies_in_proportion_between_none_and_full() -> None:
    """0 is none, 1 is full, a quarter a quarter of the way."""
    step = ([(0, 512)], 64, 64_000)
    none, full = (at_peak("H100", overlap=kind).step_ns(*step) for kind in ("none", "full"))
    shares = [0.0, 0.25, 0.5, 1.0]
    costs = [at_peak("H100", overlap=share).step_ns(*step) for share in shares]
    assert costs == pytest.approx([none - share * (none - full) for share in shares], abs=1)
    assert (costs[0], costs[-1]) == (none, full)


def test_each_nano_batch_reads_the_weights() -> None:
    """Where memory bounds the step, a second one costs the reading of all weights once more."""
    weights = 2 * (SHAPE.attention_weights + SHAPE.expert_weights + SHAPE.head_weights)
    one, two, three = (
        at_peak("H100", nano_batches=parts).step_ns([], 8, 8_000) for parts in (1, 2, 3)
    )
    assert two - one == pytest.approx(weights / 3.35e12 * 1e9, rel=1e-6)
    assert three - two == pytest.approx(two - one, abs=1)


def test_overlap_is_worth_its_nano_batches_only_beside_enough_prompts() -> None:
    """What overlapping saves grows with the work; what cutting a step costs does not."""
    saved = []
    for tokens in (64, 2048):
        step = ([(0, tokens)], 64, 64 * 1500)
        usual = at_peak("H100").step_ns(*step)
        saved.append(usual - at_peak("H100", overlap="full", nano_batches=2).step_ns(*step))
    assert saved[0] < 0 < saved[1]


def test_nano_batches_exchange_by_themselves() -> None:
    """Between GPUs, the delays of hops come once more; the bytes are the same."""
    one, two = (
        roofline(SHAPE, gpu_named("H100"), 2, replace(PEAK, nano_batches=parts)).exchange
        for parts in (1, 2)
    )
    assert two == one._replace(steps=2 * one.steps)


@pytest.mark.parametrize(
    ("ways", "page_bytes", "tokens"),
    [(1, 2 << 20, 1024), (2, 2 << 20, 2048), (1, 64 << 10, 32), (8, 64 << 10, 256), (1, 5000, 2)],
)
def test_a_page_holds_the_keys_of_so_many_tokens(ways: int, page_bytes: int, tokens: int) -> None:
    """By hand: 8 heads of 128 values of 2 bytes are 2,048 bytes a token, layer and tensor."""
    options = RooflineOptions(page_bytes=page_bytes)
    found = preset_for(LLAMA_8B, "H100", ways, options)
    assert found.block_tokens == tokens
    assert found.capacity_tokens % tokens == 0
    in_pages = found.capacity_tokens // tokens * 2 * 32 * page_bytes
    part = SHAPE.split(ways)
    free = 0.9 * gpu_named("H100").memory_bytes - 1e9 - 2 * part.parameters
    assert free - 2 * 32 * page_bytes < in_pages <= free


def test_whole_pages_waste_nothing_and_leftovers_do() -> None:
    """A page that tokens fill leaves memory as it is, to a block; one they do not leaves less."""
    usual, even, odd = (
        preset_for(LLAMA_8B, "H100", options=RooflineOptions(page_bytes=page)).capacity_tokens
        for page in (None, 2048 * 16, 2048 * 16 + 1024)
    )
    assert even == usual
    assert odd == pytest.approx(usual * 16 / 16.5, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 1.5}, "overlap must be operator, full, none or a number from 0 to 1"),
        ({"overlap": "some"}, "overlap must be operator, full, none or a number from 0 to 1"),
        ({"nano_batches": 0}, "nano_batches must be 1 or more"),
        ({"page_bytes": 0}, "page_bytes must be 1 or more"),
        ({"page_bytes": 4096, "block_tokens": 16}, "page_bytes decides the size of a block"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PEAK, **changes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="page_bytes 2047 holds no token"):
        preset_for(LLAMA_8B, "H100", options=RooflineOptions(page_bytes=2047))


def test_overhead_is_added_once_a_step() -> None:
    """The CPU's time between steps comes on top."""
    slower = at_peak("H100", overhead_ns=1_000)
    assert slower.step_ns([], 4, 100) == at_peak("H100").step_ns([], 4, 100) + 1_000


def test_efficiency_scales_time() -> None:
    """At half the bandwidth, what memory bounds takes twice as long."""
    half = at_peak("H100", memory_efficiency=0.5).step_ns([], 1, 1000)
    assert half == pytest.approx(2 * at_peak("H100").step_ns([], 1, 1000), rel=1e-6)


STEPS = st.tuples(
    st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 4_000)), max_size=3),
    st.integers(0, 256),
    st.integers(0, 500_000),
)


def _better(one: Gpu, other: Gpu) -> bool:
    return (
        one.bf16_flops >= other.bf16_flops
        and one.memory_bytes_per_s >= other.memory_bytes_per_s
        and one.link_bytes_per_s >= other.link_bytes_per_s
    )


BETTER = [
    (one.name, other.name)
    for one, other in itertools.permutations(GPUS.values(), 2)
    if _better(one, other)
]


@pytest.mark.parametrize("ways", [1, 2, 8])
@given(step=STEPS)
def test_a_better_gpu_is_never_slower(
    ways: int, step: tuple[list[tuple[int, int]], int, int]
) -> None:
    """Of two GPUs one at least as good in all its figures takes at most as long, for any step."""
    assert ("B200", "H100") in BETTER
    cost_ns = {name: roofline(SHAPE, gpu, ways).step_ns(*step) for name, gpu in GPUS.items()}
    for one, other in BETTER:
        assert cost_ns[one] <= cost_ns[other], (one, other)


@pytest.mark.parametrize("overlap", ["operator", "full", "none", 0.3])
@pytest.mark.parametrize("model", [LLAMA_8B, MIXTRAL])
@given(step=STEPS, more=st.integers(0, 500))
def test_more_work_never_costs_less(
    overlap: Overlap,
    model: dict[str, object],
    step: tuple[list[tuple[int, int]], int, int],
    more: int,
) -> None:
    """A step's cost does not fall in its batch, contexts or prompts."""
    options = RooflineOptions(overlap=overlap)
    costs = roofline(read_shape(model), gpu_named("A100-80"), 2, options)
    chunks, batch, context = step
    cost_ns = costs.step_ns(chunks, batch, context)
    assert costs.step_ns(chunks, batch + more, context) >= cost_ns
    assert costs.step_ns(chunks, batch, context + more) >= cost_ns
    assert costs.step_ns([*chunks, (100, more)], batch, context) >= cost_ns


@given(batch=st.integers(1, 256), start=st.integers(0, 400_000))
def test_decode_is_piecewise_linear_in_the_context(batch: int, start: int) -> None:
    """Equal steps of context cost equally, but for rounding and at most one knot."""
    costs = at_peak("A10")
    values = [costs.step_ns([], batch, start + 1000 * step) for step in range(12)]
    slopes = [after - before for before, after in itertools.pairwise(values)]
    changes = sum(abs(after - before) > 1 for before, after in itertools.pairwise(slopes))
    assert changes <= 2


def test_experts_are_read_only_when_used() -> None:
    """One token reads two of eight experts, four tokens may read all; computing grows by two."""
    shape = read_shape(MIXTRAL)
    costs = roofline(shape, gpu_named("H100"), options=PEAK)
    one, four, eight = (costs.step_ns([], batch, 0) for batch in (1, 4, 8))
    per_expert_ns = shape.expert_weights * 2 / 3.35e12 * 1e9
    assert four - one == pytest.approx(6 * per_expert_ns, rel=0.01)
    assert eight - four < per_expert_ns / 10


def test_tensor_parallelism_divides_work_but_not_exchange() -> None:
    """Two GPUs are faster than one and slower than half the time."""
    one, two = (
        roofline(SHAPE, gpu_named("H100"), ways).step_ns([(0, 2048)], 0, 0) for ways in (1, 2)
    )
    assert one / 2 < two < one


def test_llama_7b_on_an_a10_gets_the_papers_memory() -> None:
    """KV memory within 1 % of what Llumnix's authors report, and its KV size exactly."""
    derived, papers = preset_for(LLAMA_7B, "A10"), preset("llama-7b-a10")
    assert derived.capacity_tokens == pytest.approx(papers.capacity_tokens, rel=0.01)
    assert derived.kv_bytes_per_token == papers.kv_bytes_per_token


def test_llama_7b_on_an_a10_is_about_as_fast_as_the_papers() -> None:
    """An unfitted roofline is a rough guess: within 30 % here."""
    derived, papers = preset_for(LLAMA_7B, "A10").costs, preset("llama-7b-a10").costs
    for step in (([(0, 1024)], 0, 0), ([(0, 8192)], 0, 0), ([], 8, 8192), ([], 32, 8192)):
        assert derived.step_ns(*step) == pytest.approx(papers.step_ns(*step), rel=0.3)


def test_a_preset_is_read_from_a_file(tmp_path: Path) -> None:
    """The config's folder names the preset; two GPUs hold more than twice the KV of one."""
    path = tmp_path / "llama" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(LLAMA_8B))
    one, two = preset_for(path, "H100"), preset_for(str(path), "H100", 2)
    assert (one.name, two.name) == ("llama-H100", "llama-H100x2")
    assert two.capacity_tokens > 2 * one.capacity_tokens
    assert two.kv_bytes_per_token == one.kv_bytes_per_token == 131_072
    assert one.capacity_tokens % one.block_tokens == 0
    assert one.max_model_len == 131_072


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size: expected a positive whole number, found nothing"),
        ({"vocab_size": "many"}, "vocab_size: expected a positive whole number, found 'many'"),
        ({"kv_lora_rank": 512}, "does not cover latent attention"),
        ({"sliding_window": 4096}, "does not cover a sliding window"),
        ({"quantization_config": {"bits": 4}}, "does not cover quantised weights"),
        ({"model_type": "opt"}, "does not cover feed-forward layers without a gate"),
        ({"torch_dtype": "int4"}, "dtype: 'int4' is none of"),
    ],
)
def test_what_is_not_covered_is_refused(change: dict[str, object], message: str) -> None:
    """A model that computes something else gets no price rather than a wrong one."""
    with pytest.raises(ValueError, match=message):
        preset_for(LLAMA_8B | change, "H100")


def test_a_window_that_is_off_is_no_window() -> None:
    """Qwen2 states a window it does not use."""
    change = {"sliding_window": 4096, "use_sliding_window": False}
    assert read_shape(LLAMA_8B | change) == SHAPE


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    """Unknown GPUs, heads that cannot be split, weights that do not fit, files that are none."""
    with pytest.raises(ValueError, match="unknown GPU 'V100'; choose one of A10, A100-40"):
        preset_for(LLAMA_8B, "V100")
    with pytest.raises(ValueError, match="tensor_parallel 3 does not divide 32 heads"):
        preset_for(LLAMA_8B, "H100", 3)
    with pytest.raises(ValueError, match="leave no memory for KV"):
        preset_for(LLAMA_8B | {"num_hidden_layers": 80}, "A10")
    with pytest.raises(ValueError, match=r"cannot read .*config\.json"):
        preset_for(tmp_path / "config.json", "H100")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        preset_for(tmp_path / "config.json", "H100")
