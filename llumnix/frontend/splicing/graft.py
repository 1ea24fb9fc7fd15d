"""Join a stream that resumed from its middle by recompute: all that arrives is new.

Unlike a replay it says nothing of what came before, so usage, stop strings and names are corrected
here. Only a single channel of text can be joined this way: a parser's state is not carried over.
"""

from collections.abc import Sequence
from typing import Any

from llumnix.frontend.request.recompute import Recipe
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.splice import Diverged
from llumnix.frontend.splicing.stopping import Stopper
from llumnix.frontend.splicing.transcript import Transcript, only_choice, strings

_CHANNELS = ("text", "content")


class Grafter:
    """Turns a stream that continues after `known` tokens into the rest of the client's stream.

    The client may not have all of those: `held` is text of known tokens that it has not received.
    `seam` replaces the first text if the server began in the middle of a character.
    """

    def __init__(
        self,
        had: Transcript,
        recipe: Recipe,
        known: Sequence[int],
        *,
        held: str,
        seam: str | None,
        wants_usage: bool,
    ) -> None:
        self.ended = False
        self._had = had
        self._recipe = recipe
        self._count = len(known)
        self._owed = list(known[len(had.token_ids) :])
        self._seam = seam
        self._wants_usage = wants_usage
        sent = "".join(had.texts.get(channel, "") for channel in _CHANNELS)
        self._stopper = Stopper(recipe.stops, include=recipe.include_stop, sent=sent, held=held)

    def feed(self, data: bytes) -> bytes:
        """Return what the client gets for these events. Raises Diverged."""
        out: list[bytes] = []
        for event in sse.events(data):
            if self.ended:
                break
            out.append(self._one(event))
        return b"".join(out)

    def _one(self, event: bytes) -> bytes:
        chunk = sse.payload(event)
        if chunk is None:
            return event if sse.is_done(event) else b""
        if "error" in chunk:
            return event
        choice = only_choice(chunk)
        if choice is None:
            return self._encode({**chunk, "usage": {**(chunk.get("usage") or {}), **self._usage()}})
        ids = choice.get("token_ids")
        if ids is not None:
            self._count += len(ids)
            choice["token_ids"], self._owed = [*self._owed, *ids], []
        if not self._join(choice):
            return b""
        if chunk.get("prompt_token_ids") is not None:
            chunk["prompt_token_ids"] = None
        if choice.get("prompt_token_ids") is not None:
            choice["prompt_token_ids"] = None
        out = self._encode(chunk)
        if self.ended:
            last = {**chunk, "choices": [], "usage": self._usage()}
            out += (self._encode(last) if self._wants_usage else b"") + sse.DONE
        return out

    def _join(self, choice: dict[str, Any]) -> bool:
        """Correct a choice's text in place; return whether anything is in it."""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            delta.pop("role", None)
            if delta.get("tool_calls"):
                raise Diverged("a tool call cannot be resumed without the plugin")
        finish, text = choice.get("finish_reason"), ""
        for channel, _, value in [(c, h, h[k]) for c, h, k in strings(choice)]:
            if value and channel not in _CHANNELS:
                raise Diverged(f"{channel} cannot be resumed without the plugin")
            text += value
        if text and self._seam is not None:
            text, self._seam = self._seam, None
        counts = self._count > self._recipe.min_tokens
        text, stop = self._stopper.feed(text, last=finish is not None, stops=counts)
        if stop is not None:
            self.ended = True
            choice["finish_reason"], choice["stop_reason"] = "stop", stop
        if isinstance(delta, dict):
            delta["content"] = text
        else:
            choice["text"] = text
        return bool(text or choice.get("token_ids") or choice.get("finish_reason"))

    def _usage(self) -> dict[str, int]:
        prompt = len(self._had.prompt_ids)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self._count,
            "total_tokens": prompt + self._count,
        }

    def _encode(self, chunk: dict[str, Any]) -> bytes:
        return sse.encode({**chunk, **self._had.head})
