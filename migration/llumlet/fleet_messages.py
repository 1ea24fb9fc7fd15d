"""What the fleet and a llumlet send each other on the control port, and its strict codec."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from migration.errors import ProtocolError
from migration.protocol import wire
from migration.protocol.messages import Instance, Migration, Reason, Request
from migration.protocol.peer import Peer
from policies.types import InstanceLoad


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Fleet: report your load every `interval_s` fleet seconds from now on."""

    interval_s: float


@dataclass(frozen=True, slots=True)
class SubscribeSteps:
    """Fleet: the same, with a count of steps in each report. Only for llumlets that say they can.

    See `PROTOCOL`: others would not understand it, and hang up.
    """

    interval_s: float


@dataclass(frozen=True, slots=True)
class MigrateOut:
    """Fleet: move a request to `destination`; the llumlet picks one unless told which."""

    migration_id: Migration
    destination: Peer
    request_id: Request | None
    max_context_tokens: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Drain:
    """Fleet: accept nothing new (or, with `on` False, serve again); queued requests are bounced."""

    on: bool


@dataclass(frozen=True, slots=True)
class Recall:
    """Fleet: say what you remember of a request; `call` is repeated in the answer.

    Only for llumlets that announce `RECALLS`.
    """

    call: Annotated[int, wire.Whole(1 << 62)]
    request_id: Request
    owner: Annotated[str, wire.Text(64)]


class Recollection(enum.StrEnum):
    """What a llumlet knows of a request: `complete` and `cut` come with its output."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    COMPLETE = "complete"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Recalled:
    """Llumlet: what it remembers of a request, in answer to `Recall`."""

    call: Annotated[int, wire.Whole(1 << 62)]
    state: Recollection
    output_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Llumlet: the instance's load now, and the requests that arrived since the last report."""

    load: InstanceLoad
    new_request_ids: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class StepReport(Report):
    """Llumlet: a report that also counts the engine's steps so far.

    While requests run, a count that stands still means that the engine does.
    """

    steps: Annotated[int, wire.Whole(1 << 62)]


class EventKind(enum.StrEnum):
    """What happened to a migration."""

    STARTED = "started"
    COMMITTED = "committed"
    ABORTED = "aborted"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class MigrationEvent:
    """Llumlet (the source): a migration started or ended.

    `reason` is that of its order, `detail` explains why it was aborted or refused. One aborted with
    `unresolved` has released the request nevertheless: only a claim can tell where it is. Durations
    are wall seconds: `source_downtime_s` from the request's leaving the batch to the end of the
    migration, `started_at_s` how long ago the migration started.
    """

    kind: EventKind
    migration_id: Migration
    request_id: Annotated[str, wire.Text(256)]
    source: Instance
    destination: Instance
    reason: Reason
    stages: int = 0
    copied_tokens: int = 0
    copied_bytes: int = 0
    source_downtime_s: float = 0.0
    started_at_s: float = 0.0
    detail: Reason = ""
    unresolved: bool = False

    @property
    def redirected(self) -> bool:
        """Whether the source ended the stream with a redirect to the destination.

        True after a commit, and also when a commit was never answered: then the request may run at
        the destination, and only a claim there can tell.
        """
        return self.kind is EventKind.COMMITTED or self.unresolved


COUNTS_STEPS = 2
RECALLS = 3
PROTOCOL = 3
"""What a llumlet announces beside its port, and since when it knows which order.

1, or nothing: it knows neither `SubscribeSteps` nor `Recall`.
"""

Order = Subscribe | SubscribeSteps | MigrateOut | Drain | Recall
News = Report | MigrationEvent | Recalled

TYPES: dict[str, type[Order | News]] = {
    "subscribe": Subscribe,
    "subscribe_steps": SubscribeSteps,
    "migrate_out": MigrateOut,
    "drain": Drain,
    "recall": Recall,
    "recalled": Recalled,
    "report": Report,
    "step_report": StepReport,
    "event": MigrationEvent,
}
_NAMES = {cls: name for name, cls in TYPES.items()}


def encode(message: Order | News) -> dict[str, object]:
    """Turn an order or a report into a plain dict that msgpack can write."""
    return {"type": _NAMES[type(message)], **wire.dump(message)}


def decode(plain: Mapping[str, object]) -> Order | News:
    """Turn a plain dict into an order or report; raises ProtocolError unless it is valid."""
    rest = dict(plain)
    name = rest.pop("type", None)
    cls = TYPES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ProtocolError("unknown_message", repr(name)[:100])
    return wire.load(cls, rest)
