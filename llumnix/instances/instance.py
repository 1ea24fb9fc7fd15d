"""An instance as the fleet sees it: its address, its state and its load."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from llumnix.instances.condition.fitness import Fitness
from llumnix.instances.condition.standstill import Motion
from llumnix.instances.condition.trouble import Trouble
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.watched import Watched
from migration.llumlet.fleet_messages import MigrationEvent, Recalled
from policies.groups import ANY, Group
from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId

VLLM = "vllm"


class InstanceKind(enum.StrEnum):
    """What a server speaks: the plugin's protocol, or only OpenAI's API."""

    PLUGGED = "llumnix"
    UNTOUCHED = "untouched"


class InstanceState(enum.StrEnum):
    """Whether requests may be sent to an instance."""

    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    SUSPECT = "suspect"
    """Its engine stands still: nothing new is sent there until it moves again."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says about itself when it is first contacted.

    `models` are the entries of its `/v1/models`, unchanged. The control address is set only for
    plugged instances; `capacity_tokens` is None if the server does not report it. `engine` is
    `vllm` if it is known to be vLLM, with or without the plugin. `layout` is a digest of its KV
    layout; KV cannot be copied between instances that report different ones. `protocol` says which
    messages its llumlet understands.
    """

    instance_id: InstanceId
    kind: InstanceKind
    models: tuple[Mapping[str, Any], ...] = ()
    capacity_tokens: int | None = None
    control_host: str = ""
    control_port: int = 0
    speed: float | None = None
    engine: str = ""
    layout: str = ""
    protocol: int = 1


@dataclass(frozen=True, slots=True)
class MigrationOrder:
    """An order to an instance: migrate this request (None: one it chooses) to the destination.

    `max_context_tokens` bounds which request may be chosen.
    """

    migration_id: MigrationId
    source: InstanceId
    destination: "Instance"
    request_id: RequestId | None
    max_context_tokens: int
    reason: str


class InstanceLink(Protocol):
    """A live connection to an instance, for its reports and for orders to it."""

    async def lost(self) -> str:
        """Wait until the instance is gone; return why."""

    def give_up(self, reason: str) -> None:
        """Declare the instance gone: something else found out first."""

    async def migrate_out(self, move: "MigrationOrder") -> None:
        """Order the instance to migrate a request. Raises OSError if the order cannot be sent."""

    async def drain(self, on: bool) -> None:
        """Order the instance to refuse new requests and send queued ones back."""

    async def recall(self, request_id: RequestId, owner: str, timeout_s: float) -> Recalled | None:
        """Return what the engine remembers of a request; None if it cannot tell."""

    async def close(self) -> None:
        """Close the connection; closing it twice is harmless."""


class InstanceListener(Protocol):
    """Receives what instances report."""

    def came_up(self, instance: "Instance") -> None:
        """The instance is up (again)."""

    def went_down(self, instance: "Instance", reason: str) -> None:
        """The instance is down."""

    def not_up(self, instance: "Instance", trouble: Trouble) -> None:
        """An attempt to reach the instance failed, or it is lost: called each time."""

    def reported(self, instance: "Instance", new_request_ids: Sequence[RequestId] | None) -> None:
        """A report of the instance's load has arrived and is in `instance.load`.

        The ids are those of requests that it names for the first time; None if its reports name
        none (then it has seen everything sent before `load.reported_at_s`).
        """

    def engine_seen(self, instance: "Instance", motion: Motion) -> None:
        """A report has said whether the instance's engine moves."""

    def heard(self, event: MigrationEvent) -> None:
        """A llumlet reports on a migration."""


@dataclass(slots=True, eq=False)
class Instance(Watched):
    """One engine replica. Its id is its address until it has identified itself.

    `load` is the last report, marked terminating while draining; None before the first. `trouble`
    is why it is not up, as far as known; None once it is.
    """

    WATCHED: ClassVar[frozenset[str]] = frozenset(
        {"id", "identity", "link", "load", "draining", "group"}
    )

    endpoint: Endpoint
    id: InstanceId
    identity: Identity | None = None
    link: InstanceLink | None = None
    load: InstanceLoad | None = None
    draining: bool = False
    seen: bool = False
    models: tuple[Mapping[str, Any], ...] = ()
    group: Group = ANY
    fitness: Fitness = field(default_factory=Fitness)
    trouble: Trouble | None = None

    @classmethod
    def at(cls, url: str) -> "Instance":
        """Return the record of a server that has not been contacted yet. Raises BadAddress."""
        return cls.behind(Endpoint.at(url))

    @classmethod
    def behind(cls, endpoint: Endpoint) -> "Instance":
        """Return the record of a server at an endpoint."""
        return cls(endpoint, InstanceId(endpoint.address.name))

    @property
    def url(self) -> str:
        """Return its base URL."""
        return self.endpoint.url

    @property
    def plugged(self) -> bool:
        """Whether requests can be migrated from and to it, and resumed on it."""
        return self.identity is not None and self.identity.kind is InstanceKind.PLUGGED

    @property
    def vllm(self) -> bool:
        """Whether it is known to be vLLM, and so to understand what vLLM does."""
        return self.identity is not None and self.identity.engine == VLLM

    @property
    def model_ids(self) -> frozenset[str]:
        """Return the ids of the models it serves."""
        return self.group.models

    @property
    def state(self) -> InstanceState:
        """Return whether it can take requests."""
        if self.link is None:
            return InstanceState.DOWN if self.seen else InstanceState.STARTING
        if self.load is None:
            return InstanceState.STARTING
        if self.fitness.hung:
            return InstanceState.SUSPECT
        return InstanceState.DRAINING if self.draining else InstanceState.UP

    @property
    def alive(self) -> bool:
        """Whether it is up, has reported and does not stand still, draining or not."""
        return self.link is not None and self.load is not None and not self.fitness.hung

    def become(self, identity: Identity, link: InstanceLink) -> None:
        """Note that the server was reached, and its identity."""
        self.id = identity.instance_id
        self.identity = identity
        self.link = link
        self.seen = True
        self.know_models(identity.models)

    def know_models(self, models: Sequence[Mapping[str, Any]]) -> None:
        """Note which models it serves."""
        self.models = tuple(models)
        ids = (model.get("id") for model in models)
        names = frozenset(model for model in ids if isinstance(model, str))
        self.group = Group(names, self.identity.layout if self.identity else "")

    def lose(self) -> None:
        """Note that it is down."""
        self.link = None
        self.load = None

    def take_load(self, load: InstanceLoad, now_s: float) -> None:
        """Store a report, stamped with its local arrival time: clocks differ between machines."""
        terminating = load.terminating or self.draining
        self.load = load.received(self.id, now_s, terminating=terminating)
        self.trouble = None

    def set_draining(self, on: bool) -> None:
        """Mark it as draining, at once rather than with its next report."""
        self.draining = on
        if self.load is not None:
            self.load = replace(self.load, terminating=on)
