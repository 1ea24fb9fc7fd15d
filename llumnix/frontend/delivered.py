"""What a stream's client has received, over all legs: the reference when the stream resumes."""

import asyncio
from typing import Any

from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.ledger import Ledger
from llumnix.frontend.splicing.leg_filter import LegFilter
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.transcript import Reader, Transcript

_AT_A_TIME = 20
"""Events parsed before other tasks get a turn: less than half a millisecond of work."""


class DeliveredStream:
    """The output delivered so far: `had` by earlier legs, whose undelivered tokens are `kept`."""

    def __init__(self) -> None:
        self.had = Transcript()
        self.kept = KeptTokens()
        self._ledger = Ledger()
        self._grafted = False
        self._reader = Reader()
        self._read_bytes = 0

    def follow(self, strand: LegFilter) -> None:
        """Continue with the next leg."""
        self._start(strand.ledger, grafted=strand.grafted)

    def tokens(self) -> int:
        """Count the output tokens sent so far."""
        before = len(self.had.token_ids)
        fresh = self._ledger.tokens()
        return before + fresh if self._grafted else max(before, fresh)

    def shown(self) -> int:
        """Count the output tokens of this leg, including replayed ones."""
        return self._ledger.tokens()

    def chunks(self) -> int:
        """Count the chunks of this leg: about one per token, if the server sends no ids."""
        return self._ledger.chunks()

    def token_ids(self) -> list[int]:
        """Return the output token ids so far."""
        fresh = self._ledger.token_ids()
        if self._grafted:
            return self.had.token_ids + fresh
        return max(self.had.token_ids, fresh, key=len)

    def known_ids(self) -> list[int]:
        """Return the token ids to resume from: all there are, as of the last `note`."""
        return self.kept.after(self.had.token_ids)

    def so_far(self) -> Transcript:
        """Return the transcript of what the client has now."""
        self._read(self._ledger.after(self._read_bytes))
        seen = self._reader.transcript()
        if self._grafted:
            return self.had.joined(seen)
        if seen.size() <= self.had.size():
            return self.had
        seen.head = self.had.head or seen.head
        return seen

    def note(self) -> bool:
        """Record the end of a leg; return whether it said anything new."""
        before, self.had = self.had.progress(), self.so_far()
        self._start(Ledger(), grafted=False)
        return self.had.progress() > before

    async def read_ahead(self) -> None:
        """Parse the stream so far bit by bit, so that little is left to parse at the end."""
        ledger, at = self._ledger, self._read_bytes
        for number, event in enumerate(sse.events(ledger.after(at))):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if self._ledger is not ledger or self._read_bytes != at:
                return  # another task has read to the end
            self._read(event)
            at += len(event)

    def _start(self, ledger: Ledger, *, grafted: bool) -> None:
        self._ledger, self._grafted = ledger, grafted
        self._reader, self._read_bytes = Reader(), 0

    def _read(self, data: bytes) -> None:
        self._reader.feed(data)
        self._read_bytes += len(data)

    def keep(self, choice: dict[str, Any]) -> None:
        """Keep the tokens at the end of a leg that were not sent to the client."""
        self.kept.keep(choice, self._ledger.tokens())
