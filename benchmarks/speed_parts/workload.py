"""The workload of the simulators' race: the same lengths and arrivals for every tool.

Lengths are pairs drawn from the Azure LLM inference trace 2023 (conversation) where it lies beside
the project, else from the shipped profile of it; total length is clipped to 4,096 tokens, prompts
first. Arrivals are Poisson.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llumnix.workloads import load_workload
from policies.types import FloatColumn, IntColumn
from simulator.workload.request import TraceRequest

MAX_TOKENS = 4096
HASH_BLOCK_TOKENS = 512
TRACE = "azure_llm_2023/AzureLLMInferenceTrace_conv.csv.gz"
PROFILE = "azure-conv-2023"
_FOLDER = Path(__file__).parents[2].parent / "shared" / "traces"


@dataclass(frozen=True, slots=True)
class Workload:
    """So many requests at a rate, as columns."""

    source: str
    rate_per_s: float
    arrival_s: FloatColumn
    prompt_tokens: IntColumn
    output_tokens: IntColumn

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def decode_tokens(self) -> int:
        """Output tokens in total: the measure of decoding speed."""
        return int(self.output_tokens.sum())

    def head(self, count: int) -> "Workload":
        """Take the first requests."""
        return dataclasses.replace(
            self,
            arrival_s=self.arrival_s[:count],
            prompt_tokens=self.prompt_tokens[:count],
            output_tokens=self.output_tokens[:count],
        )

    def save(self, path: Path) -> Path:
        """Write what `read_requests` reads."""
        np.savez(
            path,
            arrival_s=self.arrival_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )
        return path


def default_source() -> str:
    """Name the trace beside the project, or the shipped profile."""
    path = _FOLDER / TRACE
    return str(path) if path.is_file() else PROFILE


def drawn(source: str, requests: int, rate_per_s: float, seed: int) -> Workload:
    """Draw a workload; equal arguments give equal requests."""
    rng = np.random.default_rng(seed)
    listed = load_workload(source, None if Path(source).is_file() else requests, None, seed)
    which = rng.integers(len(listed), size=requests)
    prompts = np.array([one.prompt_tokens for one in listed], dtype=np.int64)[which]
    outputs = np.array([one.output_tokens for one in listed], dtype=np.int64)[which]
    outputs = outputs.clip(max=MAX_TOKENS - 1)
    arrival_s = np.cumsum(rng.exponential(1 / rate_per_s, requests)).round(6)
    return Workload(
        source=Path(source).name,
        rate_per_s=rate_per_s,
        arrival_s=arrival_s,
        prompt_tokens=np.minimum(prompts, MAX_TOKENS - outputs),
        output_tokens=outputs,
    )


def read_requests(path: Path) -> list[TraceRequest]:
    """Read what `Workload.save` wrote, in our simulator's form."""
    with np.load(path) as columns:
        rows = zip(
            columns["arrival_s"].tolist(),
            columns["prompt_tokens"].tolist(),
            columns["output_tokens"].tolist(),
            strict=True,
        )
        return [TraceRequest(index, *row) for index, row in enumerate(rows)]


def mooncake_lines(workload: Workload) -> Iterator[str]:
    """Write it as a Mooncake trace, in which no two requests share a prefix."""
    block = 0
    for arrival_s, prompt, output in _rows(workload):
        count = math.ceil(prompt / HASH_BLOCK_TOKENS)
        row = {
            "timestamp": arrival_s * 1000,
            "input_length": prompt,
            "output_length": output,
            "hash_ids": list(range(block, block + count)),
        }
        block += count
        yield json.dumps(row) + "\n"


def vidur_lines(workload: Workload) -> Iterator[str]:
    """Write it as one of Vidur's traces."""
    yield "arrived_at,num_prefill_tokens,num_decode_tokens\n"
    for arrival_s, prompt, output in _rows(workload):
        yield f"{arrival_s:.6f},{prompt},{output}\n"


def llumnix_lines(workload: Workload) -> Iterator[str]:
    """Write it in the form `llumnix sweep` reads."""
    for arrival_s, prompt, output in _rows(workload):
        row = {"arrival_s": arrival_s, "prompt_tokens": prompt, "output_tokens": output}
        yield json.dumps(row) + "\n"


def _rows(workload: Workload) -> Iterator[tuple[float, int, int]]:
    return zip(
        workload.arrival_s.tolist(),
        workload.prompt_tokens.tolist(),
        workload.output_tokens.tolist(),
        strict=True,
    )
