"""A device copier's streams without a device, so that its copies can be tested everywhere."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(eq=False)
class HostEvent:
    """An event that has happened unless a test says otherwise."""

    happened: bool = True

    def query(self) -> bool:
        return self.happened

    def synchronize(self) -> None:
        assert self.happened, "nobody else would make it happen"


@dataclass
class HostStreams:
    """Runs everything at once, and keeps a record."""

    pinnable: bool
    events: list[HostEvent] = field(default_factory=list)
    fenced: list[Any] = field(default_factory=list)

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def event(self) -> HostEvent:
        self.events.append(HostEvent())
        return self.events[-1]

    def fence(self, event: Any) -> None:
        self.fenced.append(event)

    def on_device(self, numbers: Sequence[int]) -> Any:
        return torch.tensor(list(numbers), dtype=torch.int64)

    def pin(self, host: Any) -> bool:
        return self.pinnable

    def unpin(self, host: Any) -> None:
        assert self.pinnable

    def pinned(self, rows: int, n_bytes: int) -> Any:
        return torch.empty((rows, n_bytes), dtype=torch.uint8)

    def drain(self) -> None:
        """Have nothing to wait for."""
