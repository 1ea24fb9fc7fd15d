"""What a llumlet asks of its driver: the network, timers and messages to the fleet."""

from dataclasses import dataclass

from migration.llumlet.fleet_messages import MigrationEvent
from migration.protocol.messages import Message, Query
from migration.protocol.peer import Peer, Sender
from policies.types import MigrationId


@dataclass(frozen=True, slots=True)
class TimerKey:
    """Whose timer: one side (`out` or `in`) of one attempt at one migration."""

    side: str
    migration_id: MigrationId
    epoch: int


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message to a destination, connecting first if need be; keep the order."""

    peer: Peer
    message: Message


@dataclass(frozen=True, slots=True)
class Answer:
    """Send a message back to its sender; if that connection is gone, forget it."""

    sender: Sender
    message: Message


@dataclass(frozen=True, slots=True)
class AskPeer:
    """Ask over a separate connection; deliver the answer, or report `ask_failed`."""

    peer: Peer
    query: Query


@dataclass(frozen=True, slots=True)
class Ship:
    """Send blocks [first, first + n) in frames, reporting `frame_sent` after each."""

    peer: Peer
    migration_id: MigrationId
    epoch: int
    stage: int
    first_block: int
    n_blocks: int


@dataclass(frozen=True, slots=True)
class Arm:
    """Call `timer_fired(key, name)` in `seconds` (wall), replacing the timer with this key."""

    key: TimerKey
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Disarm:
    """Forget the timer with this key."""

    key: TimerKey


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the fleet."""

    event: MigrationEvent


Effect = Say | Answer | AskPeer | Ship | Arm | Disarm | Announce
