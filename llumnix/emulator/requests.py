"""A request on an emulated engine: its tokens, its end, and the one stream that reads it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llumnix.emulator.model.kv import BlockTable
from llumnix.emulator.model.vocabulary import END_ID, TEXT, VOCABULARY
from policies.types import RequestId


@dataclass(frozen=True, slots=True)
class Sampling:
    """What decides when the output ends. `max_tokens` counts all outputs, replayed ones too."""

    max_tokens: int
    ignore_eos: bool = False
    min_tokens: int = 0
    stop: tuple[str, ...] = ()

    def to_params(self) -> dict[str, object]:
        """Return it as plain values, to travel with a migrating request."""
        return {
            "max_tokens": self.max_tokens,
            "ignore_eos": self.ignore_eos,
            "min_tokens": self.min_tokens,
            "stop": list(self.stop),
        }

    @classmethod
    def from_params(cls, params: Mapping[str, object]) -> "Sampling":
        """Parse such a description; raises ValueError if it is invalid."""
        match params:
            case {
                "max_tokens": int() as max_tokens,
                "ignore_eos": bool() as ignore_eos,
                "min_tokens": int() as min_tokens,
                "stop": [*stop],
            } if all(isinstance(one, str) for one in stop):
                return cls(max_tokens, ignore_eos, min_tokens, tuple(map(str, stop)))
        raise ValueError(f"not a description of sampling: {params!r}")


@dataclass(frozen=True, slots=True)
class FinishReason:
    """How the output ended. `text_end` is where a stop string begins and the text is cut."""

    finish_reason: str
    stop_reason: str | None = None
    text_end: int | None = None


class EmulatedRequest:
    """A request and its output so far. One reader at a time; bounded by `max_tokens`."""

    def __init__(
        self,
        request_id: RequestId,
        class_index: int,
        prompt_token_ids: Sequence[int],
        output_token_ids: Sequence[int],
        sampling: Sampling,
        table: BlockTable,
    ) -> None:
        self.request_id = request_id
        self.class_index = class_index
        self.sampling = sampling
        self.table = table
        self.prompt_tokens = len(prompt_token_ids)
        self.tokens = [*prompt_token_ids]
        self.owner = ""
        """Whose it is, if its output is to be remembered after its end."""
        self.text = ""  # kept only if there are stop strings to look for
        self.finish: FinishReason | None = None
        self.next_token = END_ID
        """Computed by the step in flight; becomes an output when the step completes."""
        self._grown = asyncio.Event()
        for token in output_token_ids:
            self.accept(token)

    @property
    def output_tokens(self) -> int:
        """The number of output tokens."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def outputs(self) -> list[int]:
        """The output tokens."""
        return self.tokens[self.prompt_tokens :]

    @property
    def may_end(self) -> bool:
        """Whether the next token may be the end token."""
        return not self.sampling.ignore_eos and self.output_tokens >= self.sampling.min_tokens

    def accept(self, token: int) -> bool:
        """Append an output token; return whether the output is complete."""
        self.tokens.append(token)
        if token == END_ID and not self.sampling.ignore_eos:
            self.finish = FinishReason("stop")
        elif (stopped := self._stopped(token)) is not None:
            self.finish = stopped
        elif self.output_tokens >= self.sampling.max_tokens:
            self.finish = FinishReason("length")
        self._grown.set()
        return self.finish is not None

    def end(self, finish: FinishReason) -> None:
        """End the stream without a token, for example because the request has migrated."""
        if self.finish is None:
            self.finish = finish
            self._grown.set()

    async def read(self, position: int) -> tuple[list[int], FinishReason | None]:
        """Wait for outputs from `position` on, or for the end; return both.

        Waits as long as the request lives: the engine ends it, or the reader is cancelled.
        """
        while self.finish is None and self.output_tokens <= position:
            self._grown.clear()
            await self._grown.wait()
        return self.tokens[self.prompt_tokens + position :], self.finish

    async def finished(self) -> FinishReason:
        """Wait for the end."""
        position = 0
        while True:
            _, finish = await self.read(position)
            if finish is not None:
                return finish
            position = self.output_tokens

    def _stopped(self, token: int) -> FinishReason | None:
        if not self.sampling.stop:
            return None
        before = len(self.text)
        self.text += TEXT[token]
        hits = [
            (at, stop)
            for stop in self.sampling.stop
            if (at := self.text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if not hits or self.output_tokens <= self.sampling.min_tokens:
            return None
        at, stop = min(hits)
        return FinishReason("stop", stop, at)


def valid_tokens(token_ids: object) -> bool:
    """Return whether this is a list of tokens of the vocabulary."""
    return isinstance(token_ids, list | tuple) and all(
        type(token) is int and 0 <= token < VOCABULARY for token in token_ids
    )
