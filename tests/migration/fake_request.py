"""A request as the fake engine holds it, and who listens to its stream."""

from dataclasses import dataclass, field
from typing import Protocol

from policies.types import InstanceId, MigrationId, RequestId


class StreamSink(Protocol):
    """Who listens to a request's stream."""

    def token(self, instance_id: InstanceId, request_id: RequestId, token: int) -> None: ...
    def ended(self, instance_id: InstanceId, request_id: RequestId, redirect: str) -> None: ...


@dataclass
class FakeRequest:
    request_id: RequestId
    prompt: tuple[int, ...]
    outputs: list[int]
    max_tokens: int
    order: int
    phase: str = "queued"
    kv_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    wants_detach: bool = False
    migration_id: MigrationId | None = None
    """Set while attached and not yet claimed."""

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.outputs]
