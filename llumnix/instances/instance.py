"""An instance as the fleet sees it: where it is, whether it can take requests, how loaded it is."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from migration.llumlet.fleet_messages import MigrationEvent
from policies.groups import ANY, Group
from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId

VLLM = "vllm"


class InstanceKind(enum.StrEnum):
    """What a server speaks: our plugin's contract, or plain OpenAI."""

    PLUGGED = "llumnix"
    UNTOUCHED = "untouched"


class InstanceState(enum.StrEnum):
    """Whether requests may be sent to an instance."""

    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says about itself when first asked.

    `models` are the entries of its `/v1/models`, as they are. The control address is set for
    plugged instances alone; `capacity_tokens` is None when the server does not tell. `engine` is
    `vllm` for what is known to be vLLM, with our plugin or without. `layout` is a digest of how its
    KV lies; instances that tell different ones have nothing to copy to each other.
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


@dataclass(frozen=True, slots=True)
class MigrationOrder:
    """An order to an instance: move this request (or one you choose, if None) over there.

    `max_context_tokens` bounds what may be chosen.
    """

    migration_id: MigrationId
    source: InstanceId
    destination: "Instance"
    request_id: RequestId | None
    max_context_tokens: int
    reason: str


class InstanceLink(Protocol):
    """A live connection to an instance, by which it is heard and given orders."""

    async def lost(self) -> str:
        """Wait until the instance is gone, and say why."""

    def give_up(self, reason: str) -> None:
        """Declare the instance gone: somebody else found out first."""

    async def migrate_out(self, move: "MigrationOrder") -> None:
        """Tell the instance to move a request away. Raises OSError when it cannot be told."""

    async def drain(self, on: bool) -> None:
        """Tell the instance to refuse new requests and hand queued ones back."""

    async def close(self) -> None:
        """Close the connection; closing twice does nothing."""


class InstanceListener(Protocol):
    """Who is told what instances say."""

    def came_up(self, instance: "Instance") -> None:
        """The instance answers (again)."""

    def went_down(self, instance: "Instance", reason: str) -> None:
        """The instance answers no more."""

    def reported(self, instance: "Instance", new_request_ids: Sequence[RequestId] | None) -> None:
        """The instance's load has arrived and stands in `instance.load`.

        The ids are those of requests it names for the first time; None when its reports name none
        (then it knows of all that reached it before `load.reported_at_s`).
        """

    def heard(self, event: MigrationEvent) -> None:
        """A llumlet tells of a migration."""


@dataclass(slots=True, eq=False)
class Instance:
    """One engine replica. Its id is its address until it has said who it is.

    `load` is the last report, marked terminating while draining; None before the first.
    """

    url: str
    id: InstanceId
    identity: Identity | None = None
    link: InstanceLink | None = None
    load: InstanceLoad | None = None
    draining: bool = False
    seen: bool = False
    models: tuple[Mapping[str, Any], ...] = ()
    group: Group = ANY

    @classmethod
    def at(cls, url: str) -> "Instance":
        """Make the record of a server not asked yet."""
        bare = url.rstrip("/")
        return cls(url=bare, id=InstanceId(bare.partition("://")[2]))

    @property
    def plugged(self) -> bool:
        """Say whether requests can be moved from and to it, and resumed on it."""
        return self.identity is not None and self.identity.kind is InstanceKind.PLUGGED

    @property
    def vllm(self) -> bool:
        """Say whether it is known to be vLLM, and so to understand what vLLM does."""
        return self.identity is not None and self.identity.engine == VLLM

    @property
    def model_ids(self) -> frozenset[str]:
        """Name the models it serves."""
        return self.group.models

    @property
    def state(self) -> InstanceState:
        """Say whether it can take requests."""
        if self.link is None:
            return InstanceState.DOWN if self.seen else InstanceState.STARTING
        if self.load is None:
            return InstanceState.STARTING
        return InstanceState.DRAINING if self.draining else InstanceState.UP

    @property
    def alive(self) -> bool:
        """Say whether it answers and has reported, draining or not."""
        return self.link is not None and self.load is not None

    def become(self, identity: Identity, link: InstanceLink) -> None:
        """Note that the server was reached, and who it is."""
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
        """Note that it answers no more."""
        self.link = None
        self.load = None

    def take_load(self, load: InstanceLoad, now_s: float) -> None:
        """Keep a report, stamped with the time it arrived here: clocks differ between machines."""
        terminating = load.terminating or self.draining
        self.load = replace(load, instance_id=self.id, reported_at_s=now_s, terminating=terminating)

    def set_draining(self, on: bool) -> None:
        """Mark it as being emptied, at once rather than with its next report."""
        self.draining = on
        if self.load is not None:
            self.load = replace(self.load, terminating=on)
