"""Streams as vLLM writes them, made of known tokens: what the tests feed in and expect out."""

import json
from collections.abc import Sequence
from typing import Any

PIECES = (" the", ' "quick"', " brøwn", "\n\n", " 日本", " 🦊", " \\u0041", "", ",", "]}", " end")
DONE = b"data: [DONE]\n\n"


def token(position: int) -> int:
    """Give the token id at a position of every answer."""
    return 1000 + 7 * position


def text(position: int) -> str:
    """Give the text of the token at a position of every answer."""
    return PIECES[position % len(PIECES)] + str(position)


def full_text(tokens: int) -> str:
    """Give the whole text of an answer of so many tokens."""
    return "".join(map(text, range(tokens)))


def event(value: object) -> bytes:
    """Write one event, compact as vLLM does."""
    return (
        b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    )


class Writer:
    """Writes the chunks of one stream: `chat` or not, with token ids or without."""

    def __init__(
        self, *, chat: bool = False, ids: bool = True, created: int = 1, request_id: str = "r"
    ) -> None:
        self.chat = chat
        self.ids = ids
        self.head = {
            "id": ("chatcmpl-" if chat else "cmpl-") + request_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": "m",
        }

    def opening(self) -> bytes:
        """Write the role chunk a chat stream begins with."""
        if not self.chat:
            return b""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._chunk(choice)

    def tokens(self, first: int, after: int, finish: str | None = None) -> bytes:
        """Write one chunk with the tokens [first, after)."""
        words = "".join(map(text, range(first, after)))
        return self.piece(words, [token(i) for i in range(first, after)], finish)

    def piece(
        self, words: str, token_ids: Sequence[int], finish: str | None, stop: str | None = None
    ) -> bytes:
        """Write one chunk with this text."""
        choice: dict[str, Any] = {"index": 0}
        if self.chat:
            choice["delta"] = {"content": words}
        else:
            choice["text"] = words
        choice |= {"logprobs": None, "finish_reason": finish, "stop_reason": stop}
        if self.ids:
            choice["token_ids"] = list(token_ids)
        return self._chunk(choice)

    def redirect(self, migration_id: str) -> bytes:
        """Write what a stream ends with whose request has moved."""
        return self.piece("", [], "abort", f"migrate:{migration_id}") + DONE

    def usage(self, completion_tokens: int) -> bytes:
        """Write the usage chunk."""
        usage = {"prompt_tokens": 3, "completion_tokens": completion_tokens}
        return event({**self.head, "choices": [], "usage": usage})

    def stream(self, tokens: int, merge: int = 1, finish: str = "length") -> list[bytes]:
        """Write a whole stream, `merge` tokens a chunk, up to [DONE]."""
        chunks = [self.opening()] if self.chat else []
        for first in range(0, tokens, merge):
            after = min(tokens, first + merge)
            chunks.append(self.tokens(first, after, finish if after == tokens else None))
        return [*chunks, DONE]

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return event({**self.head, "choices": [choice]})


def text_of(stream: bytes) -> str:
    """Read the text a client would gather from a stream."""
    parts = []
    for line in stream.split(b"\n\n"):
        if not line.startswith(b"data: {"):
            continue
        choices = json.loads(line[6:])["choices"]
        parts += [c["text"] if "text" in c else c["delta"].get("content", "") for c in choices]
    return "".join(parts)
