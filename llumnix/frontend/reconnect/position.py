"""How far a client's stream has come, as its events' ids say it.

An id is opaque to clients. It counts what the client has been told, not what instances sent: the
same output may arrive in other chunks when it is computed or replayed again.
"""

import re
from dataclasses import dataclass
from typing import Final

LAST_EVENT_ID: Final = "Last-Event-ID"
"""The standard header of server-sent events: the id of the last event that the client has."""

_ID = re.compile(
    r"([0-9]{1,12})\.([0-9]{1,12})\.([01])\.([0-9]{1,6})\.([0-9]{1,12})\.([0-9a-f]{8})"
)


@dataclass(frozen=True, slots=True)
class Position:
    """What a client has: characters of text, token ids and log-probabilities, the finish reason.

    `after` counts the events since any of these grew (roles, usage, `[DONE]`). `created` is the
    time that the stream's chunks carry; `digest` is of all that is counted.
    """

    characters: int = 0
    tokens: int = 0
    finished: bool = False
    after: int = 0
    created: int = 0
    digest: int = 0

    def __str__(self) -> str:
        return (
            f"{self.characters}.{self.tokens}.{self.finished:d}.{self.after}"
            f".{self.created}.{self.digest:08x}"
        )

    @property
    def at_start(self) -> bool:
        """Whether the client has nothing yet."""
        return not (self.characters or self.tokens or self.finished or self.after)


def read_position(text: str) -> Position | None:
    """Read an event's id; `0` is the place before the first event. None if it is no such id."""
    if text == "0":
        return Position()
    found = _ID.fullmatch(text)
    if found is None:
        return None
    characters, tokens, finished, after, created, digest = found.groups()
    return Position(
        int(characters), int(tokens), finished == "1", int(after), int(created), int(digest, 16)
    )
