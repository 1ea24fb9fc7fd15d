"""Step costs from first principles: the model's computation and traffic, on the GPU's limits.

The formulas count like vLLM's own performance metrics (`vllm/v1/metrics/perf.py`, 0.33): a matrix
product takes 2 FLOPs per weight and token; attention 4 per head dimension and pair of tokens, where
a prompt is counted whole, not halved for the causal mask; weights are read once per step,
activations and KV once per use. Norms, rotations and softmax are left out.

Work is put in three groups: matrix products, attention of prompts, attention of decodes. Each takes
the longer of its computation and its memory traffic, and the groups run one after another.
Everything is compiled into whole femtoseconds per unit of work, rounded up: a step is a few dot
products, exact and, for a given batch, piecewise linear in the context.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from typing import NamedTuple

from simulator.costs.gpus import Gpu, gpu_named
from simulator.costs.model import Preset, chunk_sums
from simulator.costs.model_shape import ModelShape, read_shape
from simulator.costs.roofline_options import Overlap, RooflineOptions

FS_PER_S = 10**15
FS_PER_NS = 10**6
# A ring passes each byte to every other GPU and back; each hop starts with this delay (GenZ).
HOP_FS = 1_900 * FS_PER_NS

MILLION = 10**6


class Work(NamedTuple):
    """Amounts of work of a step, or the cost of a unit of each in FLOPs, bytes or femtoseconds.

    `logits` are tokens whose successor is computed; `squares` sum end² - start² of the chunks of
    prompts and `ends` their ends; `contexts` those of decodes; `experts` are weights read.
    """

    steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    decodes: int = 0
    logits: int = 0
    squares: int = 0
    ends: int = 0
    contexts: int = 0
    experts: int = 0

    def times(self, other: "Work") -> int:
        """Sum up: units times the cost of each."""
        return sum(map(mul, self, other))

    def cut(self, parts: int) -> "Work":
        """Repeat in each of several parts of a step what was done once per step."""
        return self._replace(steps=self.steps * parts, experts=self.experts * parts)

    def at(self, per_s: int) -> "Work":
        """Turn FLOPs or bytes into femtoseconds, rounded up, at so many per second."""
        return Work(*(-(-amount * FS_PER_S // per_s) for amount in self))


class Bound(NamedTuple):
    """The cost of a unit of a group's work, in femtoseconds of computation and of traffic."""

    compute: Work
    memory: Work


@dataclass(frozen=True, slots=True)
class RooflineCosts:
    """A compiled roofline: see the module. Built by `roofline`; a CostModel."""

    groups: tuple[Bound, ...]
    exchange: Work
    experts: int
    experts_per_token: int
    overhead_ns: int
    overlap: Overlap
    decode_base_ns: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decode_base_ns", self.step_ns((), 1, 0))

    def step_ns(
        self, chunks: Iterable[tuple[int, int]], batch_size: int, context_tokens: int
    ) -> int:
        """See CostModel."""
        chunks = tuple(chunks)
        prompt_tokens, squares = chunk_sums(chunks)
        tokens = prompt_tokens + batch_size
        work = Work(
            steps=1,
            tokens=tokens,
            prompt_tokens=prompt_tokens,
            decodes=batch_size,
            logits=len(chunks) + batch_size,
            squares=squares,
            ends=sum(start + count for start, count in chunks),
            contexts=context_tokens,
            experts=min(tokens * self.experts_per_token, self.experts),
        )
        return self.overhead_ns + -(-self._fs(work) // FS_PER_NS)

    def prefill_ns(self, tokens: int, squares: int) -> int:
        """See CostModel. The base left out is the reading of the weights."""
        work = Work(tokens=tokens, prompt_tokens=tokens, squares=squares)
        return -(-self._fs(work) // FS_PER_NS)

    def _fs(self, work: Work) -> int:
        compute = [work.times(group.compute) for group in self.groups]
        memory = [work.times(group.memory) for group in self.groups]
        exchange = work.times(self.exchange)
        if self.overlap == "operator":
            return sum(map(max, compute, memory)) + exchange
        beside = max(sum(compute), sum(memory), exchange)
        after = sum(compute) + sum(memory) + exchange
        if self.overlap == "full":
            return beside
        if self.overlap == "none":
            return after
        share = round(self.overlap * MILLION)
        return -(-(share * beside + (MILLION - share) * after) // MILLION)


def roofline(
    shape: ModelShape, gpu: Gpu, tensor_parallel: int = 1, options: RooflineOptions | None = None
) -> RooflineCosts:
    """Compile the step costs of a model on GPUs of a kind; raises ValueError if it cannot split."""
    options = options or RooflineOptions()
    part = shape.split(tensor_parallel)
    flops_per_s = round(gpu.bf16_flops * options.compute_efficiency)
    bytes_per_s = round(gpu.memory_bytes_per_s * options.memory_efficiency)
    groups = (_products(part), _prompt_attention(part), _decode_attention(part))
    return RooflineCosts(
        groups=tuple(
            Bound(flops.at(flops_per_s), traffic.cut(options.nano_batches).at(bytes_per_s))
            for flops, traffic in groups
        ),
        exchange=_exchange(shape, gpu, tensor_parallel).cut(options.nano_batches),
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        overhead_ns=options.overhead_ns,
        overlap=options.overlap,
    )


def preset_for(
    model: str | Path | Mapping[str, object],
    gpu: str | Gpu,
    tensor_parallel: int = 1,
    options: RooflineOptions | None = None,
) -> Preset:
    """Derive a preset from a model's `config.json` (path or contents) and a GPU (name or figures).

    `tensor_parallel` GPUs serve it as one instance. Raises ValueError for a model that is not
    covered, an unknown GPU, and a model that leaves no memory for KV.
    """
    options = options or RooflineOptions()
    shape = read_shape(model)
    gpu = gpu_named(gpu) if isinstance(gpu, str) else gpu
    name = model.get("_name_or_path") if isinstance(model, Mapping) else Path(model).parent.name
    name = f"{name or 'model'}-{gpu.name}" + (f"x{tensor_parallel}" if tensor_parallel > 1 else "")
    part = shape.split(tensor_parallel)
    capacity = kv_capacity_tokens(shape, gpu, tensor_parallel, options)
    if not capacity:
        raise ValueError(f"{name}: the weights leave no memory for KV; use more GPUs")
    return Preset(
        name=name,
        source=f"Roofline at {options.compute_efficiency:.0%} of the peak FLOP/s and "
        f"{options.memory_efficiency:.0%} of the bandwidth; {gpu.source}.",
        costs=roofline(shape, gpu, tensor_parallel, options),
        capacity_tokens=capacity,
        block_tokens=options.block_tokens_for(part),
        max_model_len=min(shape.max_model_len, capacity),
        kv_bytes_per_token=part.kv_bytes_per_token * tensor_parallel,
        link_bytes_per_s=options.network_bytes_per_s,
    )


def kv_capacity_tokens(
    shape: ModelShape, gpu: Gpu, tensor_parallel: int, options: RooflineOptions
) -> int:
    """Tokens, in whole blocks, whose KV fits beside the weights; 0 when these do not fit."""
    part = shape.split(tensor_parallel)
    usable = round(gpu.memory_bytes * options.memory_utilization) - options.reserve_bytes
    free = max(0, usable - part.parameters * part.dtype_bytes)
    return free // options.block_bytes_for(part) * options.block_tokens_for(part)


def _products(part: ModelShape) -> tuple[Work, Work]:
    """FLOPs and bytes of the matrix products; every token passes `experts_per_token` experts."""
    used = part.attention_weights + part.shared_weights
    used += part.experts_per_token * part.expert_weights
    flops = Work(tokens=2 * used, logits=2 * part.head_weights)
    q_width = part.q_heads * part.head_dim
    kv_width = 2 * part.kv_heads * part.head_dim
    inner = part.experts_per_token * part.inner + part.shared_inner
    read = part.hidden + q_width + part.hidden + 3 * inner
    written = q_width + kv_width + part.hidden + kv_width  # kv_width again: into the cache
    fixed = part.attention_weights + part.shared_weights + part.head_weights
    traffic = Work(
        steps=fixed * part.dtype_bytes,
        experts=part.expert_weights * part.dtype_bytes,
        tokens=part.layers * (read + written) * part.dtype_bytes,
    )
    return flops, traffic


def _prompt_attention(part: ModelShape) -> tuple[Work, Work]:
    queries = part.layers * part.q_heads * part.head_dim
    return Work(squares=4 * queries), Work(
        prompt_tokens=queries * part.dtype_bytes, ends=part.kv_bytes_per_token
    )


def _decode_attention(part: ModelShape) -> tuple[Work, Work]:
    queries = part.layers * part.q_heads * part.head_dim
    return Work(contexts=4 * queries), Work(
        decodes=queries * part.dtype_bytes, contexts=part.kv_bytes_per_token
    )


def _exchange(shape: ModelShape, gpu: Gpu, ways: int) -> Work:
    """Two ring all-reduces per layer, of each token's hidden state, in femtoseconds."""
    if ways == 1:
        return Work()
    reduces = 2 * shape.layers
    sent = reduces * 2 * (ways - 1) * shape.hidden * shape.dtype_bytes
    return Work(
        steps=reduces * 2 * (ways - 1) * HOP_FS,
        tokens=-(-sent * FS_PER_S // (ways * gpu.link_bytes_per_s)),
    )
