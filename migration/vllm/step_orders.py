"""What the engine tells its workers with every step, and what they answer.

Both travel over vLLM's own channels (`KVConnectorMetadata` and `KVConnectorWorkerMetadata`,
vllm/distributed/kv_transfer/kv_connector/v1/base.py), between processes: plain values only.
"""

from collections import Counter
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)


@dataclass(frozen=True, slots=True)
class CopyJob:
    """Copy KV blocks to staging slots (`gather`) or back. `urgent`: within this very step."""

    job_id: int
    gather: bool
    block_ids: tuple[int, ...]
    slots: tuple[int, ...]
    urgent: bool


@dataclass
class StepOrders(KVConnectorMetadata):
    """One step's orders. `received`: requests whose KV is complete once these jobs are done."""

    jobs: tuple[CopyJob, ...] = ()
    received: tuple[str, ...] = ()
    flush: bool = False


@dataclass
class StepResults(KVConnectorWorkerMetadata):
    """Jobs done, by how many ranks."""

    done: Counter[int] = field(default_factory=Counter)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "StepResults":
        """Add another rank's results."""
        assert isinstance(other, StepResults)
        return StepResults(self.done + other.done)


@dataclass
class RankInfo(KVConnectorHandshakeMetadata):
    """What a worker reports of itself once its KV caches exist."""

    tp_rank: int
    arena_path: str
    slots: int
    block_bytes: int
    cache_signature: str
    runner: str
