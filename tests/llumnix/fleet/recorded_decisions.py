"""What a scheduler was asked and told, and what it answered; and the same asked of another one."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from policies.scheduler import GlobalScheduler


@dataclass(frozen=True)
class Call:
    """One call of a scheduler, and all that came of it, in plain values that can be compared."""

    method: str
    arguments: tuple[object, ...]
    keywords: Mapping[str, object]
    answer: object


@dataclass
class Recorder:
    """Stands where a `GlobalScheduler` would, hands on every call, and keeps it.

    Arguments are copied before the scheduler sees them: what anybody changes later is not in them.
    """

    scheduler: GlobalScheduler
    calls: list[Call] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        value = getattr(self.scheduler, name)
        return self._recorded(name, value) if callable(value) else value

    def _recorded(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            kept = copy.deepcopy((arguments, keywords))
            answer = method(*arguments, **keywords)
            self.calls.append(Call(name, *kept, plain((answer, self.scheduler.vetoed))))
            return answer

        return call


def replayed(calls: Sequence[Call], scheduler: GlobalScheduler) -> Iterator[Call]:
    """Put the same calls to a scheduler; gives them with its answers."""
    for call in calls:
        arguments, keywords = copy.deepcopy((call.arguments, call.keywords))
        answer = getattr(scheduler, call.method)(*arguments, **keywords)
        yield dataclasses.replace(call, answer=plain((answer, scheduler.vetoed)))


def plain(value: object) -> object:
    """Turn an answer into values whose equality is exact, columns and explanations included."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [
            (part.name, plain(getattr(value, part.name))) for part in dataclasses.fields(value)
        ]
        return (type(value).__name__, *parts)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return [(key, plain(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
