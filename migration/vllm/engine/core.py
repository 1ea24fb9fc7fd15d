"""The engine core as the plugin uses it: every private call to vLLM's scheduler is here.

All methods must be called on the engine's thread, from within a connector hook, unless they say
otherwise. Paths in docstrings are relative to `site-packages/vllm`.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request, RequestStatus

from migration.vllm.compat import IncompatibleVllm
from migration.vllm.tags import STEP_MARK


class EngineCore:
    """vLLM's scheduler and the queue of its outputs."""

    def __init__(self, scheduler: Any, core: Any) -> None:
        self._scheduler = scheduler
        self._core = core

    @classmethod
    def around(cls) -> "EngineCore":
        """Find the scheduler and engine core that are being built around the caller.

        The connector is made in `Scheduler.__init__` (v1/core/sched/scheduler.py), which runs in
        `EngineCoreProc.__init__` (v1/engine/core.py). Raises IncompatibleVllm.
        """
        scheduler = core = None
        frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to the engine core
        while frame is not None and core is None:
            owner = frame.f_locals.get("self")
            if hasattr(owner, "finish_requests") and hasattr(owner, "kv_cache_config"):
                scheduler = owner
            if hasattr(owner, "output_queue") and hasattr(owner, "input_queue"):
                core = owner
            frame = frame.f_back  # type: ignore[assignment]
        if scheduler is None or core is None:
            raise IncompatibleVllm(
                "the connector was not made by vLLM's EngineCoreProc and Scheduler: the plugin "
                "needs `vllm serve` (the V1 engine in its own process)"
            )
        return cls(scheduler, core)

    # --- may be read from any thread ---

    def requests(self) -> list[Request]:
        """List all requests, as of some moment during this call."""
        return list(self._scheduler.requests.values())

    def free_blocks(self) -> int:
        """Count free KV blocks, those that hold evictable cached prefixes included."""
        return int(self._scheduler.kv_cache_manager.block_pool.get_num_free_blocks())

    @property
    def computing(self) -> bool:
        """Whether any request is in the batch."""
        return bool(self._scheduler.running)

    def has_input(self) -> bool:
        """Whether the API server has sent something the engine has not read yet."""
        return not self._core.input_queue.empty()

    @property
    def block_tokens(self) -> int:
        """How many tokens a KV block holds."""
        return int(self._scheduler.block_size)

    @property
    def total_blocks(self) -> int:
        """Count KV blocks available to requests (vLLM keeps one for itself)."""
        return int(self._scheduler.kv_cache_manager.block_pool.num_gpu_blocks) - 1

    @property
    def max_model_len(self) -> int:
        """The longest context."""
        return int(self._scheduler.max_model_len)

    # --- requests ---

    def block_ids(self, request: Request) -> list[int]:
        """List a request's KV blocks, in order."""
        ids: list[int] = self._scheduler.kv_cache_manager.get_block_ids(request.request_id)[0]
        return ids

    def append(self, request: Request, token_ids: list[int]) -> None:
        """Make tokens outputs of a request, without notifying anyone (v1/request.py).

        `prefill_stats` must go: its bookkeeping asserts that only prompt tokens were cached.
        """
        request.append_output_token_ids(token_ids)
        request.prefill_stats = None

    def feed_grammar(self, request: Request, token_ids: list[int]) -> bool:
        """Advance a compiled grammar over outputs already appended; False when it refuses them."""
        if not request.use_structured_output or not token_ids:
            return True
        manager = self._scheduler.structured_output_manager
        return bool(manager.accept_tokens(request, list(token_ids)))

    def grow(self, request: Request, tokens: int) -> bool:
        """Allocate blocks for more tokens to a request that waits for its KV; False if there are
        none.

        `KVCacheManager.allocate_slots(..., delay_cache_blocks=True)`, as the scheduler does itself
        for requests whose KV is on its way.
        """
        manager = self._scheduler.kv_cache_manager
        return manager.allocate_slots(request, tokens, delay_cache_blocks=True) is not None

    def start_from(self, request: Request, tokens: int) -> None:
        """Make a request that waits for its KV start from that of so many tokens.

        From none at all it starts like any new request, which has no blocks either.
        """
        request.num_computed_tokens = tokens
        if not tokens:
            self._scheduler.kv_cache_manager.free(request)

    def cache(self, request: Request, tokens: int) -> None:
        """Enter the full blocks of a request's first tokens into the prefix cache."""
        if tokens >= self.block_tokens and self._scheduler.kv_cache_manager.enable_caching:
            self._scheduler.kv_cache_manager.cache_blocks(request, tokens)

    def end(self, request: Request, stop_reason: str) -> None:
        """End a request here and now; its stream ends with this stop reason.

        `Scheduler.finish_requests` alone does not notify the API server, which would wait forever.
        """
        self._scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
        self._put(
            request,
            [
                EngineCoreOutput(
                    request_id=request.request_id,
                    new_token_ids=[],
                    finish_reason=FinishReason.ABORT,
                    stop_reason=stop_reason,
                )
            ],
        )

    def replay(self, request: Request, token_ids: Sequence[int], *, step_by_step: bool) -> None:
        """Show tokens to the API server as if they had just been computed.

        `step_by_step` keeps them apart, for parsers whose result depends on how text is cut. Their
        logprobs are not known here and are reported as zeros: the frontend has the true ones.
        """
        if not token_ids:
            return
        ids = list(token_ids)
        groups = [[token] for token in ids] if step_by_step else [ids]
        mark = {STEP_MARK: True} if step_by_step else None
        self._put(
            request,
            [
                EngineCoreOutput(
                    request_id=request.request_id,
                    new_token_ids=group,
                    new_logprobs=_no_logprobs(request, group),
                    kv_transfer_params=mark,
                )
                for group in groups
            ],
        )

    def _put(self, request: Request, outputs: list[EngineCoreOutput]) -> None:
        batch = EngineCoreOutputs(engine_index=self._core.engine_index, outputs=outputs)
        self._core.output_queue.put_nowait((request.client_index, batch))


def _no_logprobs(request: Request, token_ids: list[int]) -> LogprobsLists | None:
    """Stand in for logprobs of replayed tokens: the token itself, at zero, in every column."""
    params = request.sampling_params
    wanted = None if params is None else params.num_logprobs
    if wanted is None:
        return None
    columns = max(0, wanted) + 1
    ids = np.repeat(np.array(token_ids, dtype=np.int32)[:, None], columns, axis=1)
    zeros = np.zeros(ids.shape, dtype=np.float32)
    ranks = np.ones(len(token_ids), dtype=np.int32)
    return LogprobsLists(ids, zeros, ranks)
