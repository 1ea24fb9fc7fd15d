"""What happens to a migration besides messages: the inputs of the two state machines."""

from dataclasses import dataclass

from migration.engine import Gone, RequestState
from migration.protocol.messages import Blocks


@dataclass(frozen=True, slots=True)
class Moment:
    """What the source knows of its surroundings when an event arrives.

    `now_s` and `step_s` (the duration of an engine step) are wall seconds; `kv_tokens` is how many
    tokens of the request have KV now, None when it is not running.
    """

    now_s: float
    kv_tokens: int | None
    step_s: float


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The machine's timer ran out; `name` says what it had been waiting for."""

    name: str


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The link to the other side broke; messages in flight may or may not have arrived."""


# --- source only ---


@dataclass(frozen=True, slots=True)
class Start:
    """Begin."""


@dataclass(frozen=True, slots=True)
class FrameSent:
    """The driver handed some of a stage's blocks to the network, which took `seconds`."""

    n_blocks: int
    n_bytes: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Detached:
    """The engine removed the request from the batch; this is its whole state."""

    state: RequestState


@dataclass(frozen=True, slots=True)
class Left:
    """The request finished, was cancelled or preempted; its blocks are gone."""

    why: Gone


@dataclass(frozen=True, slots=True)
class Stop:
    """This migration is to be undone (say, because of a shutdown)."""

    reason: str


@dataclass(frozen=True, slots=True)
class AskFailed:
    """The destination could not be asked what became of the commit."""


# --- destination only ---


@dataclass(frozen=True, slots=True)
class RoomMade:
    """The engine reserved the blocks asked for."""


@dataclass(frozen=True, slots=True)
class RoomDenied:
    """There is no room, or this instance accepts nothing now."""

    reason: str


@dataclass(frozen=True, slots=True)
class BlocksOffered:
    """The header of a frame of blocks has arrived; its payload comes next."""

    blocks: Blocks


@dataclass(frozen=True, slots=True)
class BlocksLanded:
    """A frame's payload was received into the reserved blocks, or broke on the way."""

    blocks: Blocks
    intact: bool


@dataclass(frozen=True, slots=True)
class Attached:
    """The engine runs the request from its next step on."""


@dataclass(frozen=True, slots=True)
class AttachDenied:
    """The engine refused the request; it kept nothing."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """The source restarted under the same id: what this attempt holds is freed."""


SourceEvent = Start | FrameSent | Detached | Left | Stop | AskFailed | TimerFired | PeerLost
DestinationEvent = (
    RoomMade
    | RoomDenied
    | BlocksOffered
    | BlocksLanded
    | Attached
    | AttachDenied
    | Superseded
    | TimerFired
    | PeerLost
)
