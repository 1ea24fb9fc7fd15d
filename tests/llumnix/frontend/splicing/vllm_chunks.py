"""Streams and answers as vLLM 0.32 writes them, field by field, made of known tokens."""

import json
from collections.abc import Sequence
from typing import Any

from tests.llumnix.frontend.splicing.chunks import event, text, token

PROMPT = [7, 8, 9]
DUMMY = 0.0


def logprob(position: int) -> float:
    """Give the log-probability of the token at a position of every answer."""
    return -0.125 * (position + 1)


class VllmWriter:
    """Writes what vLLM would; of the first `dummies` tokens it knows no log-probabilities."""

    def __init__(
        self, body: dict[str, Any], *, created: int = 1, request_id: str = "r", dummies: int = 0
    ) -> None:
        self.chat = "messages" in body
        self.ids = bool(body.get("return_token_ids"))
        self.logprobs = bool(body.get("logprobs"))
        self.dummies = dummies
        self._begun = False
        self.head = {
            "id": ("chatcmpl-" if self.chat else "cmpl-") + request_id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": created,
            "model": "m",
        }

    def opening(self) -> bytes:
        """Write the role chunk a chat stream begins with."""
        if not self.chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        prompt = {"prompt_token_ids": PROMPT if self.ids else None, "prompt_text": None}
        return event({**self.head, "choices": [choice], **prompt})

    def tokens(
        self, first: int, after: int, finish: str | None = None, stop: str | None = None
    ) -> bytes:
        """Write one chunk with the tokens [first, after)."""
        words = "".join(map(text, range(first, after)))
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": words}} if self.chat else {"text": words}
        choice["logprobs"] = self._logprobs(first, after)
        choice["finish_reason"] = finish
        if finish is not None or not self.chat:
            choice["stop_reason"] = stop
        if not self.chat:
            choice["prompt_token_ids"] = PROMPT if self.ids and not self._begun else None
        choice["token_ids"] = [token(i) for i in range(first, after)] if self.ids else None
        self._begun = True
        return event({**self.head, "choices": [choice]})

    def swallowed(self, position: int) -> bytes:
        """Write the chunk of a token a chat parser has swallowed: only if ids are asked for."""
        if not self.ids:
            return b""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}
        return event({**self.head, "choices": [{**choice, "token_ids": [token(position)]}]})

    def answer(self, after: int, finish: str = "length", stop: str | None = None) -> bytes:
        """Write a whole answer of the first `after` tokens."""
        words = "".join(map(text, range(after)))
        ids = [token(i) for i in range(after)] if self.ids else None
        prompt_ids = PROMPT if self.ids else None
        choice: dict[str, Any] = {"index": 0}
        choice |= {"message": {"role": "assistant", "content": words}} if self.chat else {}
        choice |= {} if self.chat else {"text": words}
        choice |= {"logprobs": self._logprobs(0, after), "finish_reason": finish}
        choice |= {"stop_reason": stop, "token_ids": ids}
        if not self.chat:
            choice |= {"prompt_logprobs": None, "prompt_token_ids": prompt_ids}
        usage = {"prompt_tokens": 3, "completion_tokens": after, "total_tokens": 3 + after}
        whole: dict[str, Any] = {**self.head, "choices": [choice], "usage": usage}
        if self.chat:
            whole |= {"prompt_logprobs": None, "prompt_token_ids": prompt_ids}
        return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()

    def _logprobs(self, first: int, after: int) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        known = [(i, DUMMY if i < self.dummies else logprob(i)) for i in range(first, after)]
        if self.chat:
            return {"content": [_entry(i, value) for i, value in known]}
        return {
            "text_offset": [len("".join(map(text, range(i)))) for i, _ in known],
            "token_logprobs": [value for _, value in known],
            "tokens": [text(i) for i, _ in known],
            "top_logprobs": [{text(i): value} for i, value in known],
        }


def _entry(position: int, value: float) -> dict[str, Any]:
    words = text(position)
    return {"token": words, "logprob": value, "bytes": list(words.encode()), "top_logprobs": []}


def logprobs_of(stream: bytes) -> list[float]:
    """Read the log-probabilities a client would gather from a stream."""
    found: list[float] = []
    for choice in choices_of(stream):
        told = choice.get("logprobs") or {}
        found += [entry["logprob"] for entry in told.get("content", ())]
        found += told.get("token_logprobs", ())
    return found


def offsets_of(stream: bytes) -> list[int]:
    """Read the text offsets a client would gather from a stream."""
    return [at for c in choices_of(stream) for at in (c.get("logprobs") or {})["text_offset"]]


def choices_of(stream: bytes) -> Sequence[dict[str, Any]]:
    """Read the choices of a stream's chunks."""
    lines = [line for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    return [choice for line in lines for choice in json.loads(line[6:]).get("choices", ())]
