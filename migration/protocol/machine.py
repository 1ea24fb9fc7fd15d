"""What both state machines share: a state, a story, and a table of the possible transitions."""

import enum
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from migration.errors import InvalidTransition
from migration.protocol.events import TimerFired
from migration.protocol.instructions import Drop

STORY_LENGTH = 256

StateT = TypeVar("StateT", bound=enum.Enum)
Action = Callable[[Any, Any], list[Any]]
Table = dict[tuple[StateT, type], Action]


class StateMachine(Generic[StateT]):
    """One side of one attempt (`epoch`) to move one request.

    Late messages from peers are dropped and counted; what our own engine or driver must never do
    raises InvalidTransition with the whole story.
    """

    def __init__(self, state: StateT, epoch: int) -> None:
        self.state = state
        self.epoch = epoch
        self.story: deque[tuple[str, object]] = deque(maxlen=STORY_LENGTH)

    def follow(self, table: Table[StateT], event: object) -> list[Any]:
        """Take the table's action for this event in this state; return the instructions."""
        self.story.append((str(self.state.value), event))
        if getattr(event, "epoch", self.epoch) != self.epoch:
            return [Drop("old epoch")]
        if isinstance(event, TimerFired) and event.name != self.state.value:
            return [Drop("stale timer")]
        action = table.get((self.state, type(event)))
        if action is None:
            raise InvalidTransition(self.state, event, list(self.story))
        return action(self, event)


def rows(table: Table[StateT], states: Iterable[StateT], actions: Mapping[type, Action]) -> None:
    """Enter the same actions for several states; later rows replace earlier ones."""
    table.update({(state, event): action for state in states for event, action in actions.items()})


def late(_machine: object, _event: object) -> list[Drop]:
    """Count what came too late or twice, and do nothing."""
    return [Drop("late")]
