"""What a stream's client has, over all its legs: the last word when the stream is carried on."""

from typing import Any

from llumnix.frontend import sse
from llumnix.frontend.ledger import Ledger
from llumnix.frontend.logprobs import KeptTokens
from llumnix.frontend.strand import Strand
from llumnix.frontend.transcript import Transcript, read


class Record:
    """`had` is what earlier legs brought, `kept` the tokens they had left over."""

    def __init__(self) -> None:
        self.had = Transcript()
        self.kept = KeptTokens()
        self._ledger = Ledger()
        self._grafted = False

    def follow(self, strand: Strand) -> None:
        """Go on with the next leg."""
        self._ledger, self._grafted = strand.ledger, strand.grafted

    def tokens(self) -> int:
        """Count the output tokens sent so far."""
        before = len(self.had.token_ids)
        fresh = self._ledger.tokens()
        return before + fresh if self._grafted else max(before, fresh)

    def shown(self) -> int:
        """Count the output tokens of this leg: with those of a replay, if it is one."""
        return self._ledger.tokens()

    def chunks(self) -> int:
        """Count the chunks of this leg: about one a token, where a server tells no ids."""
        return sse.count_chunks(self._ledger.raw())

    def token_ids(self) -> list[int]:
        """List the output token ids so far."""
        fresh = self._ledger.token_ids()
        if self._grafted:
            return self.had.token_ids + fresh
        return max(self.had.token_ids, fresh, key=len)

    def known_ids(self) -> list[int]:
        """List the token ids to carry on from: all there are, as of the last `note`."""
        return self.kept.after(self.had.token_ids)

    def so_far(self) -> Transcript:
        """Read what the client has now."""
        seen = read(self._ledger.raw())
        if self._grafted:
            return self.had.joined(seen)
        if seen.size() <= self.had.size():
            return self.had
        seen.head = self.had.head or seen.head
        return seen

    def note(self) -> bool:
        """Take stock at the end of a leg; say whether it has brought something new."""
        before, self.had = self.had.size(), self.so_far()
        self._ledger, self._grafted = Ledger(), False
        return self.had.size() > before

    def keep(self, choice: dict[str, Any]) -> None:
        """Keep the tokens a leg ended with that the client was not sent."""
        self.kept.keep(choice, self._ledger.tokens())
