"""One request on its way into the batch: how far it has come."""

from dataclasses import dataclass, field

from vllm.v1.request import Request

from migration.vllm.engine.register import Tracked
from policies.types import MigrationId


@dataclass(slots=True, eq=False)
class Arriving:
    """One request on its way into the batch.

    `bound`: all tokens it will start from are its outputs now; `committed`: by the source. Blocks
    before `first_block` were in the prefix cache here. `over`: the stop reason to end it with.
    `received`: vLLM was told that its KV is complete. `foreign`: what came in turned out not to be
    this request's.
    """

    tracked: Tracked
    migration_id: MigrationId | None
    early: bool
    since_s: float
    bound: bool
    committed: bool = False
    grammar_fed: int = 0
    first_block: int = 0
    allocated: bool = False
    in_flight: set[int] = field(default_factory=set)
    in_place: set[int] = field(default_factory=set)
    over: str | None = None
    ended: bool = False
    received: bool = False
    entered: bool = False
    foreign: bool = False

    @property
    def request(self) -> Request:
        """vLLM's own request."""
        return self.tracked.request

    def first_gap(self) -> int:
        """Return the first block, from `first_block` on, that has not arrived."""
        block = self.first_block
        while block in self.in_flight or block in self.in_place:
            block += 1
        return block
