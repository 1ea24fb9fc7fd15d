"""What a client sees of one answer, in a form that can be compared with another's.

What differs between any two answers (ids, the time of creation) is left out, but checked: within
one answer it must not change.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Json = dict[str, Any]
Watch = Callable[[int], None]
"""Called with how many letters (or, if more, token ids) have arrived."""

_TOLERANCE = 2e-3
_SHOWN_CHARACTERS = 500


@dataclass(slots=True)
class Recording:
    """One whole answer: `seen` is compared, `error` is what went wrong, `faults` of form."""

    seen: Json = field(default_factory=dict)
    error: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text, in whatever channel."""
        return str(self.seen.get("text") or self.seen.get("content") or "")


async def record(
    session: aiohttp.ClientSession, url: str, body: Json, request_id: str, watch: Watch
) -> Recording:
    """Post a request and take in its answer, streamed or not."""
    recording = Recording()
    try:
        headers = {"X-Request-Id": request_id}
        async with session.post(url, json=body, headers=headers) as answer:
            if answer.status != 200:
                recording.error = f"HTTP {answer.status}: {(await answer.text())[:500]}"
            elif body.get("stream"):
                await _stream(answer, recording, watch)
            else:
                recording.seen = _whole(await answer.json())
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        recording.error = f"{type(error).__name__}: {error}"
    return recording


def _whole(answer: Json) -> Json:
    """Leave out of a complete answer what differs every time."""
    choice = dict(answer["choices"][0])
    message = dict(choice.pop("message", None) or {})
    for call in message.get("tool_calls") or ():
        call["id"] = bool(call.get("id"))
    kept = {key: value for key, value in answer.items() if key in ("model", "object", "usage")}
    return {**kept, **message, **choice, "choices": len(answer["choices"])}


async def _stream(answer: aiohttp.ClientResponse, recording: Recording, watch: Watch) -> None:
    gathered = _Gathered()
    async for line in answer.content:
        if not line.startswith(b"data: "):
            continue
        data = line[6:].strip()
        if data == b"[DONE]":
            gathered.done = True
            continue
        event = json.loads(data)
        if "error" in event:
            recording.error = str(event["error"])
            return
        gathered.take(event)
        watch(gathered.length)
    recording.seen, recording.faults = gathered.result(), gathered.faults
    if not gathered.done:
        recording.error = "the stream ended without [DONE]"


class _Gathered:
    """The events of one stream, put together channel by channel."""

    def __init__(self) -> None:
        self.done = False
        self.faults: list[str] = []
        self._text: dict[str, str] = {}
        self._lists: dict[str, list[Any]] = {}
        self._once: dict[str, Any] = {}
        self._same: dict[str, Any] = {}

    @property
    def length(self) -> int:
        """How much has arrived."""
        letters = sum(len(text) for text in self._text.values())
        return max(letters, len(self._lists.get("token_ids", ())))

    def take(self, event: Json) -> None:
        """Add one event."""
        for key in ("id", "created", "model", "object"):
            if self._same.setdefault(key, event.get(key)) != event.get(key):
                self.faults.append(f"{key} changed from {self._same[key]} to {event.get(key)}")
        if event.get("usage"):
            self._set("usage", event["usage"])
        if event.get("prompt_token_ids"):
            self._set("prompt_token_ids", event["prompt_token_ids"])
        for choice in event.get("choices") or ():
            self._choice(choice)

    def _choice(self, choice: Json) -> None:
        if "finish_reason" in self._once:
            self.faults.append(f"something came after the end: {choice}")
        delta = choice.get("delta") or {}
        if delta.get("role"):
            self._set("role", delta["role"])
        for key, value in (
            ("text", choice.get("text")),
            ("content", delta.get("content")),
            ("reasoning", delta.get("reasoning") or delta.get("reasoning_content")),
        ):
            self._say(key, value)
        for call in delta.get("tool_calls") or ():
            self._tool_call(call)
        self._list("token_ids", choice.get("token_ids"))
        self._logprobs(choice.get("logprobs"))
        if choice.get("prompt_token_ids"):
            self._set("prompt_token_ids", choice["prompt_token_ids"])
        if choice.get("finish_reason"):
            self._set("finish_reason", choice["finish_reason"])
            self._once["stop_reason"] = choice.get("stop_reason")

    def _tool_call(self, call: Json) -> None:
        name = f"tool{call['index']}"
        function = call.get("function") or {}
        if call.get("id"):
            self._set(f"{name}.has_id", value=True)
        if call.get("type"):
            self._once[f"{name}.type"] = call["type"]
        self._say(f"{name}.name", function.get("name"))
        self._say(f"{name}.arguments", function.get("arguments"))

    def _logprobs(self, logprobs: Json | None) -> None:
        for key, values in (logprobs or {}).items():
            # Where vLLM merges events within a character, offsets differ between unmoved runs too.
            if key != "text_offset":
                self._list(f"logprobs.{key}", values)

    def _say(self, channel: str, text: str | None) -> None:
        if text:
            self._text[channel] = self._text.get(channel, "") + text

    def _list(self, name: str, values: list[Any] | None) -> None:
        if values:
            self._lists.setdefault(name, []).extend(values)

    def _set(self, key: str, value: object) -> None:
        if key in self._once:
            self.faults.append(f"{key} came twice: {self._once[key]}, {value}")
        self._once[key] = value

    def result(self) -> Json:
        """Everything that must equal another run."""
        same = {"model": self._same.get("model"), "object": self._same.get("object")}
        return {**self._text, **self._lists, **self._once, **same}


def differences(expected: Recording, got: Recording) -> list[str]:
    """Describe how an answer differs from the expected one; empty if it does not."""
    found = [f"error: {got.error}"] if got.error else []
    found += got.faults
    keys = sorted(expected.seen.keys() | got.seen.keys())
    for key in keys:
        one, other = expected.seen.get(key), got.seen.get(key)
        if not _equal(one, other):
            found.append(f"{key}: {_first_difference(one, other)}"[:_SHOWN_CHARACTERS])
    return found


def _equal(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0.0, abs_tol=_TOLERANCE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _first_difference(one: object, other: object) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        unlike = next(key for key in keys if not _equal(one.get(key), other.get(key)))
        return f"{unlike}: {_first_difference(one.get(unlike), other.get(unlike))}"
    if isinstance(one, str | list) and isinstance(other, str | list):
        same = 0
        for left, right in zip(one, other, strict=False):
            if not _equal(left, right):
                break
            same += 1
        return (
            f"lengths {len(one)} and {len(other)}, unlike from {same}: expected "
            f"{one[same : same + 12]!r}, got {other[same : same + 12]!r}"
        )
    return f"expected {one!r}, got {other!r}"
