"""What a client already has, parsed from the raw bytes sent; needed only when a stream moves.

Text is kept by *channel*: the text of a completion, each string of a chat delta (`content`,
`reasoning`, …), each tool call's name and arguments. How the text is split into
chunks depends on timing and merging; the text of a channel does not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from llumnix.frontend.splicing import sse

Channel = str
_NOT_TEXT = ("role",)
_TEXT = re.compile(rb'"(?:text|content)":"[^"]')
_SILENT_MEMBERS = frozenset({"id", "object", "created", "model", "system_fingerprint"})
_SILENT_OF_A_CHOICE = frozenset({"index", "delta", "prompt_token_ids", "stop_reason"})


@dataclass(slots=True)
class Transcript:
    """The content of a stream so far.

    `head` holds the members that every chunk repeats (`id`, `created`), from the first chunk;
    `call_ids` the ids of tool calls, by index.
    `prompt_ids` are the prompt's, if the server sent them; `bare` says that some text came without
    token ids. `finished` and `usage` say whether the finish reason and the usage chunk were among
    the events. `said` says whether the client was told anything that binds its answer, `opened`
    which choices a chunk has opened. Comments, pings and the role open a stream, and say nothing.
    """

    texts: dict[Channel, str] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    events: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    call_ids: dict[int, str] = field(default_factory=dict)
    prompt_ids: list[int] = field(default_factory=list)
    bare: bool = False
    finished: bool = False
    usage: bool = False
    said: bool = False
    opened: set[int] = field(default_factory=set)

    def progress(self) -> tuple[int, int, bool, bool, bool]:
        """Return a key that orders transcripts of one stream by how much they say."""
        text = sum(map(len, self.texts.values()))
        return (text, len(self.token_ids), self.finished, self.usage, self.said)

    def size(self) -> tuple[int, int, bool, bool, bool, int]:
        """Return a key that orders transcripts of one stream by how far they got."""
        return (*self.progress(), self.events)

    def joined(self, more: "Transcript") -> "Transcript":
        """Return this transcript with another appended."""
        channels = [*self.texts, *(each for each in more.texts if each not in self.texts)]
        return Transcript(
            texts={each: self.texts.get(each, "") + more.texts.get(each, "") for each in channels},
            token_ids=[*self.token_ids, *more.token_ids],
            events=self.events + more.events,
            head=self.head or more.head,
            call_ids={**more.call_ids, **self.call_ids},
            prompt_ids=self.prompt_ids or more.prompt_ids,
            bare=self.bare or more.bare,
            finished=self.finished or more.finished,
            usage=self.usage or more.usage,
            said=self.said or more.said,
            opened=self.opened | more.opened,
        )


class Reader:
    """Reads a stream's events incrementally; anything but a chunk only counts as an event."""

    def __init__(self) -> None:
        self._seen = Transcript()
        self._texts: dict[Channel, list[str]] = {}

    def feed(self, raw: bytes) -> None:
        """Read whole events."""
        for event in sse.events(raw):
            self._seen.events += 1
            self._seen.said = self._seen.said or says_something(event)
            chunk = sse.payload(event)
            if chunk is not None:
                self._chunk(chunk)

    def transcript(self) -> Transcript:
        """Return what has been read so far."""
        texts = {channel: "".join(parts) for channel, parts in self._texts.items()}
        seen = self._seen
        return replace(seen, texts=texts, token_ids=list(seen.token_ids), opened=set(seen.opened))

    def _chunk(self, chunk: dict[str, Any]) -> None:
        seen = self._seen
        if not seen.head:
            seen.head = {key: chunk[key] for key in ("id", "created") if key in chunk}
        seen.opened |= openings(chunk)
        choice = only_choice(chunk)
        if not seen.prompt_ids:
            told = chunk.get("prompt_token_ids") or (choice or {}).get("prompt_token_ids")
            seen.prompt_ids = told or []
        if choice is None:
            seen.usage = seen.usage or chunk.get("usage") is not None
            return
        for channel, holder, key in strings(choice):
            self._texts.setdefault(channel, []).append(holder[key])
            seen.bare = seen.bare or bool(holder[key] and choice.get("token_ids") is None)
        for index, call_id in _call_ids(choice):
            seen.call_ids.setdefault(index, call_id)
        seen.token_ids += choice.get("token_ids") or ()
        seen.finished = seen.finished or choice.get("finish_reason") is not None


def read(raw: bytes) -> Transcript:
    """Read the events of a stream."""
    reader = Reader()
    reader.feed(raw)
    return reader.transcript()


def only_choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    """Return a chunk's choice; None if it has none (usage, errors)."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    return choices[0]


def openings(chunk: dict[str, Any]) -> set[int]:
    """Return the indexes of the choices in a chunk."""
    choices = chunk.get("choices")
    found = choices if isinstance(choices, list) else ()
    return {
        each["index"]
        for each in found
        if isinstance(each, dict) and isinstance(each.get("index"), int)
    }


def says_something(data: bytes) -> bool:
    """Return whether whole events tell a client anything that binds the rest of its answer.

    Any member that is not known to be silent, and holds something, speaks: text and reasoning, tool
    calls, a refusal, audio, token ids, log-probabilities, a finish reason, usage.
    """
    # Text is what nearly all say, and needs no parser: in a JSON string quotes are escaped.
    return _TEXT.search(data) is not None or any(_speaks(event) for event in sse.events(data))


def _speaks(event: bytes) -> bool:
    chunk = sse.payload(event)
    if chunk is None:
        text = [line for line in event.splitlines() if line.startswith(b"data:")]
        return any(line[5:].strip() for line in text)
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return bool(chunk.get("usage"))  # a ping of some kind, or an error
    if any(each for key, each in chunk.items() if key not in _SILENT_MEMBERS | _OWN_MEMBERS):
        return True
    return any(_choice_speaks(each) for each in choices if isinstance(each, dict))


_OWN_MEMBERS = frozenset({"choices", "prompt_token_ids", "service_tier", "kv_transfer_params"})


def _choice_speaks(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    told = delta if isinstance(delta, dict) else {}
    return any(each for key, each in choice.items() if key not in _SILENT_OF_A_CHOICE) or any(
        each for key, each in told.items() if key not in _NOT_TEXT
    )


def _call_ids(choice: dict[str, Any]) -> Iterator[tuple[int, str]]:
    delta = choice.get("delta")
    for call in (delta.get("tool_calls") or ()) if isinstance(delta, dict) else ():
        if isinstance(call.get("id"), str):
            yield call.get("index", 0), call["id"]


def strings(choice: dict[str, Any]) -> Iterator[tuple[Channel, dict[str, Any], str]]:
    """Return the places in a choice that hold text: (channel, containing object, key)."""
    if isinstance(choice.get("text"), str):
        yield "text", choice, "text"
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    for key, value in delta.items():
        if isinstance(value, str) and key not in _NOT_TEXT:
            yield key, delta, key
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        for key in ("name", "arguments"):
            if isinstance(function.get(key), str):
                yield f"tool_calls.{call.get('index', 0)}.{key}", function, key
