"""A model whose KV can be checked: what it holds for a token says all tokens up to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput

from migration.vllm.worker.copier import Ticket
from migration.vllm.worker.runner_v1 import resumed_outputs

VOCABULARY = 50
_MASK = (1 << 64) - 1


def digests(tokens: Iterable[int]) -> list[int]:
    """Give the KV of each token: a digest of it and all before."""
    value, found = 7, []
    for token in tokens:
        value = (value * 6364136223846793005 + token + 1442695040888963407) & _MASK
        found.append(value)
    return found


def next_token(digest: int) -> int:
    return (digest >> 33) % VOCABULARY


def continuation(prompt: Sequence[int], n: int) -> list[int]:
    """Say what the model answers to a prompt, undisturbed."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(next_token(digests(tokens)[-1]))
    return tokens[len(prompt) :]


def blocks_of(tokens: Sequence[int], block_tokens: int, n_tokens: int) -> list[bytes]:
    """Give the KV blocks of a request's first tokens; the rest of the last one is garbage."""
    found = digests(tokens[:n_tokens])
    found += [0xBAD] * (-len(found) % block_tokens)
    array = np.array(found, dtype=np.uint64).reshape(-1, block_tokens)
    return [row.tobytes() for row in array]


class ToyArena:
    """Staging memory without a file."""

    def __init__(self, slots: int, block_bytes: int) -> None:
        self.slots, self.block_bytes = slots, block_bytes
        self.memory = np.zeros((slots, block_bytes), dtype=np.uint8)

    def view(self, slot: int) -> memoryview:
        return memoryview(self.memory[slot])


class ToyCopier:
    """Copies between the toy cache and the arena."""

    def __init__(self, cache: "np.ndarray[Any, Any]", arena: ToyArena) -> None:
        self.cache, self.arena = cache, arena
        self.launched: list[tuple[bool, tuple[int, ...], tuple[int, ...]]] = []

    def gather(self, block_ids: Sequence[int], slots: Sequence[int]) -> Ticket:
        self.launched.append((True, tuple(block_ids), tuple(slots)))
        for block, slot in zip(block_ids, slots, strict=True):
            self.arena.memory[slot] = self.cache[block].view(np.uint8)
        return Ticket()

    def scatter(self, slots: Sequence[int], block_ids: Sequence[int]) -> Ticket:
        self.launched.append((False, tuple(block_ids), tuple(slots)))
        for block, slot in zip(block_ids, slots, strict=True):
            self.cache[block] = self.arena.memory[slot].view(np.uint64)
        return Ticket()

    def done(self, ticket: Ticket) -> bool:
        return True

    def wait(self, ticket: Ticket) -> None:
        return

    def fence(self, ticket: Ticket) -> None:
        return

    def close(self) -> None:
        return


@dataclass
class Row:
    """A request as the worker knows it."""

    tokens: list[int]
    block_ids: list[int]


@dataclass
class ToyRunner:
    """Plays vLLM's first model runner: keeps its own copy of every request."""

    cache: "np.ndarray[Any, Any]"
    rows: dict[str, Row] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    computed: int = 0

    def run(self, planned: SchedulerOutput) -> ModelRunnerOutput:
        for name in planned.finished_req_ids:
            self.rows.pop(name, None)
        for new in planned.scheduled_new_reqs:
            prompt = list(new.prompt_token_ids or ())
            outputs = resumed_outputs(new)
            self.rows[new.req_id] = Row([*prompt, *outputs], list(new.block_ids[0]))
        starts = {new.req_id: new.num_computed_tokens for new in planned.scheduled_new_reqs}
        cached = planned.scheduled_cached_reqs
        for index, name in enumerate(cached.req_ids):
            starts[name] = cached.num_computed_tokens[index]
            blocks = cached.new_block_ids[index]
            row = self.rows[name]
            if name in cached.resumed_req_ids:
                row.block_ids = []
            row.block_ids += [] if blocks is None else blocks[0]
        sampled = [
            self._compute(name, starts[name], n) for name, n in planned.num_scheduled_tokens.items()
        ]
        names = list(planned.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=sampled,
            kv_connector_output=KVConnectorOutput(),
        )

    def _compute(self, name: str, start: int, n: int) -> list[int]:
        """Read the KV of all tokens before, write that of `n` tokens, sample after the last one."""
        row = self.rows[name]
        width = self.cache.shape[1]
        expected = digests(row.tokens)
        for place in range(start):
            found = int(self.cache[row.block_ids[place // width]][place % width])
            if found != expected[place]:
                self.wrong.append(f"{name}: KV of token {place} of {start} is another's")
                break
        assert start + n <= len(row.tokens), (name, start, n, len(row.tokens))
        for place in range(start, start + n):
            self.cache[row.block_ids[place // width]][place % width] = expected[place]
        self.computed += n
        if start + n < len(row.tokens):
            return []
        row.tokens.append(next_token(expected[-1]))
        return [row.tokens[-1]]
