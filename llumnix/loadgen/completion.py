"""Parse a streamed completion: its tokens, its text, and where each arrived in the body."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.types import IntColumn

# One server-sent event of one line of data, as OpenAI servers send them.
_EVENT = re.compile(rb"data: ?([^\r\n]*)\r?\n\r?\n")
# Nearly every event is vLLM's for one token, its text free of escapes: parsed at a fifth
# of the cost of JSON, and only if it is exactly that.
_PLAIN_TOKEN = re.compile(
    rb'"choices":\[\{"index":0,"text":"([^"\\]*)","logprobs":null,"finish_reason":null,'
    rb'"stop_reason":null,"token_ids":\[(\d+)\]\}\]\}$'
)


@dataclass(slots=True)
class Completion:
    """The contents of a stream.

    `token_ids` is None if the server sent no id for some token. `event_ends` and `event_tokens`
    hold, for each event with tokens, where it ended and how many it had (without ids an event with
    text counts as one). `done`: the stream ended properly.
    """

    token_ids: list[int] | None = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    event_ends: list[int] = field(default_factory=list)
    event_tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    stop_reason: str = ""
    usage_tokens: int | None = None
    error: str = ""
    done: bool = False

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)

    @property
    def tokens(self) -> int:
        """The number of output tokens: by ids, else by the server's own count, else by events."""
        if self.token_ids is None and self.usage_tokens is not None:
            return self.usage_tokens
        return sum(self.event_tokens)

    def add(self, text: str, ids: list[int] | None, end: int) -> None:
        """Add the contents of an event that ends at `end`."""
        self.texts.append(text)
        count = len(ids) if ids is not None else int(text != "")
        if not count:
            return
        if ids is None:
            self.token_ids = None
        elif self.token_ids is not None:
            self.token_ids.extend(ids)
        self.event_ends.append(end)
        self.event_tokens.append(count)

    def token_ends(self) -> IntColumn:
        """Return, for each token, where its event ended."""
        ends = np.array(self.event_ends, dtype=np.int64)
        return np.repeat(ends, np.array(self.event_tokens, dtype=np.int64))


def parse_completion(body: bytes) -> Completion:
    """Parse the body of a streamed `/v1/completions` response; anything but events is skipped."""
    completion = Completion()
    for event in _EVENT.finditer(body):
        data = event.group(1)
        if plain := _PLAIN_TOKEN.search(data):
            completion.add(plain[1].decode(errors="replace"), [int(plain[2])], event.end())
            continue
        if data == b"[DONE]":
            completion.done = True
            continue
        try:
            message = json.loads(data)
        except ValueError:
            completion.error = f"an event that is not JSON: {data[:80]!r}"
            continue
        if isinstance(message, dict):
            _take(completion, message, event.end())
    return completion


def _take(completion: Completion, message: dict[str, Any], end: int) -> None:
    if message.get("error"):
        completion.error = error_text(message)
    if message.get("usage"):
        completion.usage_tokens = int(message["usage"].get("completion_tokens", 0))
    for choice in message.get("choices") or ():
        completion.add(choice.get("text") or "", choice.get("token_ids"), end)
        if choice.get("finish_reason"):
            completion.finish_reason = str(choice["finish_reason"])
            completion.stop_reason = str(choice.get("stop_reason") or "")


def error_text(message: object) -> str:
    """Return the message of an OpenAI-style error, or whatever text came in its place."""
    error = message.get("error", message) if isinstance(message, dict) else message
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return str(error)
