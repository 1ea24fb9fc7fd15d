"""The worker's side of the connector: copies KV blocks between the cache and the staging arena.

vLLM calls it in the worker's own thread, once per step, after the forward pass was launched. Copies
that are not urgent are spread over steps, so that none is lengthened by more than a set share.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from migration.protocol.pacing import Average
from migration.vllm.arena import SHARED_MEMORY, SUFFIX, Arena, remove_stale
from migration.vllm.settings import PluginSettings, SettingsError
from migration.vllm.step_orders import CopyJob, RankInfo, StepOrders, StepResults
from migration.vllm.worker.copier import CacheShape, Copier, Ticket, make_copier, self_test

MIN_SLOTS = 8
IDLE_BLOCKS = 64
"""Blocks copied at a time in a step without a forward pass; orders are read in between."""


class WorkerSide:
    """One rank. `register_caches` comes first, once; then one `orders` and `work` per step."""

    def __init__(
        self,
        settings: PluginSettings,
        engine_id: str,
        tp_rank: int,
        runner: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._settings = settings
        self._engine_id = engine_id
        self._tp_rank = tp_rank
        self._runner = runner
        self._clock = clock
        self._arena: Arena | None = None
        self._copier: Copier | None = None
        self._signature = ""
        self._waiting: deque[CopyJob] = deque()
        self._launched: list[tuple[int, Ticket]] = []
        self._results = StepResults()
        self._received: set[str] = set()
        self._step_s = Average()
        self._block_s = Average()
        self._last_s = float("-inf")

    def register_caches(self, kv_caches: dict[str, Any], num_blocks: int) -> None:
        """Inspect the KV caches, create the arena, and prove that a block survives the round trip.

        Raises LayoutUnknown, ArenaError, SelfTestFailed or SettingsError; each says what to do.
        """
        shape = CacheShape.probe(kv_caches, num_blocks)
        slots = self._settings.staging_bytes // shape.block_bytes
        if slots < MIN_SLOTS:
            raise SettingsError(
                f"staging_bytes is {self._settings.staging_bytes:,}, but a KV block has "
                f"{shape.block_bytes:,} bytes: give at least {MIN_SLOTS * shape.block_bytes:,}"
            )
        folder = Path(self._settings.staging_dir) if self._settings.staging_dir else SHARED_MEMORY
        remove_stale(folder)
        path = folder / f"{self._engine_id}-{self._tp_rank}{SUFFIX}"
        self._arena = Arena.create(path, slots, shape.block_bytes)
        self._copier = make_copier(kv_caches, num_blocks, self._arena.buffer)
        self._signature = shape.signature
        self_test(self._copier)

    def info(self) -> RankInfo | None:
        """Return what the engine's side must know of this rank; None before the caches exist."""
        if self._arena is None:
            return None
        return RankInfo(
            self._tp_rank,
            str(self._arena.path),
            self._arena.slots,
            self._arena.block_bytes,
            self._signature,
            self._runner,
        )

    def work(self, orders: StepOrders, *, forward: bool) -> None:
        """Do this step's share of the copies; `forward` says that the step computes something."""
        started_s = self._clock()
        if forward and started_s - self._last_s < 1.0:
            self._step_s.observe(started_s - self._last_s)
        self._waiting.extend(job for job in orders.jobs if not job.urgent)
        if orders.flush:
            while self._waiting:
                self._copy(self._waiting.popleft(), None, wait=True)
        for job in orders.jobs:
            if job.urgent:
                self._copy(job, None, wait=True)
        self._spread(forward=forward)
        self._received.update(orders.received)
        self._poll()
        self._last_s = self._clock()

    def received(self) -> set[str] | None:
        """Take the requests whose KV is in place since the last call."""
        taken, self._received = self._received, set()
        return taken or None

    def results(self) -> StepResults | None:
        """Take the jobs done since the last call."""
        if not self._results.done:
            return None
        taken, self._results = self._results, StepResults()
        return taken

    def close(self) -> None:
        """Release the arena."""
        if self._copier is not None:
            self._copier.close()
        if self._arena is not None:
            self._arena.unlink()

    def _spread(self, *, forward: bool) -> None:
        left = self._allowance() if forward else IDLE_BLOCKS
        while self._waiting and left > 0:
            job = self._waiting.popleft()
            n = min(left, len(job.slots))
            left -= n
            rest = replace(job, block_ids=job.block_ids[n:], slots=job.slots[n:])
            self._copy(job, n, wait=False)
            if rest.slots:
                self._waiting.appendleft(rest)

    def _allowance(self) -> int:
        """Return how many blocks may be copied without exceeding a step's share."""
        step_s, block_s = self._step_s.value, self._block_s.value
        if not step_s or not block_s:
            return 1
        return max(1, int(self._settings.copy_share * step_s / block_s))

    def _copy(self, job: CopyJob, first: int | None, *, wait: bool) -> None:
        """Launch a job, or its first blocks only; it is done when its last part is."""
        assert self._copier is not None, "vLLM registers its KV caches before the first step"
        n = len(job.slots) if first is None else first
        block_ids, slots = job.block_ids[:n], job.slots[:n]
        started_s = self._clock()
        if job.gather:
            ticket = self._copier.gather(block_ids, slots)
        else:
            ticket = self._copier.scatter(slots, block_ids)
            self._copier.fence(ticket)
        if wait:
            self._copier.wait(ticket)
        if n:
            self._block_s.observe((self._clock() - started_s) / n)
        if n == len(job.slots):
            self._launched.append((job.job_id, ticket))

    def _poll(self) -> None:
        """Count the jobs whose copies have completed; they complete in the order launched."""
        assert self._copier is not None
        done: Counter[int] = self._results.done
        left = []
        for job_id, ticket in self._launched:
            if self._copier.done(ticket):
                done[job_id] += 1
            else:
                left.append((job_id, ticket))
        self._launched = left
