"""One attempt to move one request, and the messages its source sends."""

from dataclasses import dataclass

from migration.engine import RequestState
from migration.layout import Layout
from migration.protocol.messages import Abort, Blocks, Commit, Query, Reserve, StageDone
from policies.types import InstanceId, MigrationId, RequestId


@dataclass(frozen=True, slots=True)
class Trip:
    """What is fixed about one attempt. Its methods build the source's messages."""

    migration_id: MigrationId
    epoch: int
    request_id: RequestId
    source: InstanceId
    destination: InstanceId
    layout: Layout

    def reserve(self, stage: int, n_blocks: int) -> Reserve:
        """Ask for `n_blocks` in total, before a stage."""
        return Reserve(
            self.migration_id,
            self.epoch,
            self.request_id,
            self.source,
            self.destination,
            stage,
            n_blocks,
            self.layout,
        )

    def blocks(self, stage: int, first_block: int, n_blocks: int, checksum: int) -> Blocks:
        """Build the header of a frame of blocks."""
        return Blocks(self.migration_id, self.epoch, stage, first_block, n_blocks, checksum)

    def stage_done(self, stage: int, n_blocks: int) -> StageDone:
        """State that blocks [0, n_blocks) are all on their way."""
        return StageDone(self.migration_id, self.epoch, stage, n_blocks)

    def commit(self, n_blocks: int, state: RequestState) -> Commit:
        """Hand the request over."""
        return Commit(self.migration_id, self.epoch, n_blocks, state)

    def abort(self, reason: str) -> Abort:
        """Abort it."""
        return Abort(self.migration_id, self.epoch, reason)

    def query(self) -> Query:
        """Ask what became of the commit."""
        return Query(self.migration_id, self.epoch)
