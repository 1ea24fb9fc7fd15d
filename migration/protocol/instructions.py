"""What the state machines want done: the outputs of `Source` and `Destination`."""

import enum
from dataclasses import dataclass

from migration.engine import RequestState
from migration.protocol.messages import Blocks, Message, Query


class Outcome(enum.Enum):
    """How a migration ended, as one side sees it.

    UNRESOLVED: the commit was never answered, so the source let go and the frontend arbitrates.
    """

    COMMITTED = "committed"
    ABORTED = "aborted"
    REFUSED = "refused"
    UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the other side."""

    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Wake the machine in `seconds` (wall); a machine has one timer, so this replaces the last."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Cancel the timer: nothing is being waited for any more."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A message or timer came too late or twice; count it under `what`."""

    what: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The machine is done."""

    outcome: Outcome
    reason: str


# --- source only ---


@dataclass(frozen=True, slots=True)
class SendBlocks:
    """Send blocks [first, first + n) as one or more `Blocks` frames of this stage."""

    stage: int
    first_block: int
    n_blocks: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the destination a question over a separate connection."""

    query: Query


@dataclass(frozen=True, slots=True)
class Detach:
    """Take the request out of the batch at the next step boundary."""


@dataclass(frozen=True, slots=True)
class Reattach:
    """Put the request back into the batch."""


@dataclass(frozen=True, slots=True)
class Release:
    """End the request's stream here with a redirect, and free its blocks."""

    redirect: str


# --- destination only ---


@dataclass(frozen=True, slots=True)
class MakeRoom:
    """Reserve blocks, `n_blocks` in total."""

    n_blocks: int


@dataclass(frozen=True, slots=True)
class FreeRoom:
    """Free everything reserved; data that still arrives must not be written there."""


@dataclass(frozen=True, slots=True)
class Land:
    """Receive a frame's payload into its reserved blocks."""

    blocks: Blocks


@dataclass(frozen=True, slots=True)
class Attach:
    """Turn the reservation into a running request."""

    state: RequestState


SourceInstruction = (
    Send | SetTimer | CancelTimer | Drop | Ended | SendBlocks | Ask | Detach | Reattach | Release
)
DestinationInstruction = (
    Send | SetTimer | CancelTimer | Drop | Ended | MakeRoom | FreeRoom | Land | Attach
)
