"""What two llumlets send each other about one migration, and its strict codec.

Every message names its migration and *epoch*, the source's count of attempts, so that leftovers of
an earlier attempt can be recognised, counted and dropped. Block numbers are positions in the
request (block 0 holds its first tokens), `n_blocks` of a reservation or stage is counted from block
0, and stages are counted from 0, one for every Reserve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from migration.engine import RequestState
from migration.errors import ProtocolError
from migration.layout import Layout
from migration.protocol import wire
from policies.types import InstanceId, MigrationId, RequestId

MAX_ID = 256
MAX_REASON = 1024
MAX_BLOCKS = 1 << 20
MAX_EPOCH = 1 << 62
MAX_STAGE = 1 << 16

Name = wire.Text(MAX_ID, least=1)
Migration = Annotated[MigrationId, Name]
Request = Annotated[RequestId, Name]
Instance = Annotated[InstanceId, Name]
Epoch = Annotated[int, wire.Whole(MAX_EPOCH)]
Stage = Annotated[int, wire.Whole(MAX_STAGE)]
BlockCount = Annotated[int, wire.Whole(MAX_BLOCKS)]
Reason = Annotated[str, wire.Text(MAX_REASON)]


@dataclass(frozen=True, slots=True)
class Reserve:
    """Source: before a stage, reserve `n_blocks` in total. Layouts must agree."""

    migration_id: Migration
    epoch: Epoch
    request_id: Request
    source: Instance
    destination: Instance
    stage: Stage
    n_blocks: BlockCount
    layout: Layout


@dataclass(frozen=True, slots=True)
class Reserved:
    """Destination: the blocks for this stage are reserved."""

    migration_id: Migration
    epoch: Epoch
    stage: Stage


@dataclass(frozen=True, slots=True)
class Refused:
    """Destination: refused; nothing is kept, and this id will never be attached here."""

    migration_id: Migration
    epoch: Epoch
    reason: Reason


@dataclass(frozen=True, slots=True)
class Blocks:
    """Source: KV blocks [first, first + n); their bytes follow as the frame's payload."""

    migration_id: Migration
    epoch: Epoch
    stage: Stage
    first_block: BlockCount
    n_blocks: BlockCount
    checksum: Annotated[int, wire.Whole((1 << 32) - 1)]


@dataclass(frozen=True, slots=True)
class StageDone:
    """Source: with this stage you have blocks [0, n_blocks)."""

    migration_id: Migration
    epoch: Epoch
    stage: Stage
    n_blocks: BlockCount


@dataclass(frozen=True, slots=True)
class StageAck:
    """Destination: exactly these blocks are here and intact."""

    migration_id: Migration
    epoch: Epoch
    stage: Stage


@dataclass(frozen=True, slots=True)
class Commit:
    """Source: take the request over. From here on the source never resumes it by itself."""

    migration_id: Migration
    epoch: Epoch
    n_blocks: BlockCount
    state: RequestState


@dataclass(frozen=True, slots=True)
class Committed:
    """Destination: the request runs here."""

    migration_id: Migration
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Abort:
    """Either side: it is over. From the destination it promises what `Refused` promises."""

    migration_id: Migration
    epoch: Epoch
    reason: Reason


@dataclass(frozen=True, slots=True)
class Query:
    """Source: what became of my commit? Answered by `Committed`, or by a final `Refused`."""

    migration_id: Migration
    epoch: Epoch


Message = (
    Reserve
    | Reserved
    | Refused
    | Blocks
    | StageDone
    | StageAck
    | Commit
    | Committed
    | Abort
    | Query
)

TYPES: dict[str, type[Message]] = {
    "reserve": Reserve,
    "reserved": Reserved,
    "refused": Refused,
    "blocks": Blocks,
    "stage_done": StageDone,
    "stage_ack": StageAck,
    "commit": Commit,
    "committed": Committed,
    "abort": Abort,
    "query": Query,
}
_NAMES = {cls: name for name, cls in TYPES.items()}

TO_DESTINATION = (Reserve, StageDone, Commit, Abort, Query)
"""What a destination accepts; `Abort` goes both ways."""


def encode(message: Message) -> dict[str, object]:
    """Turn a message into a plain dict that msgpack can write."""
    return {"type": _NAMES[type(message)], **wire.dump(message)}


def decode(plain: Mapping[str, object]) -> Message:
    """Turn a plain dict into a message; raises ProtocolError unless it is exactly valid."""
    rest = dict(plain)
    name = rest.pop("type", None)
    cls = TYPES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ProtocolError("unknown_message", repr(name)[:100])
    return wire.load(cls, rest)
