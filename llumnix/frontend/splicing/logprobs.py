"""Log-probabilities of tokens a client has not got, of an answer that ended with a redirect.

What replays a request elsewhere knows its tokens but not their log-probabilities, and writes
dummies in their place. Those the client has are skipped; for tokens it has not, the first answer's
are kept here, by position in the output, and put back.
"""

from collections.abc import Iterator
from typing import Any

_LISTS = ("token_logprobs", "top_logprobs", "tokens")
"""What a completion says of each token. `text_offset` is the replaying server's to say."""

Choice = dict[str, Any]


class KeptTokens:
    """Tokens past what the client has: `ids` and, where it asked for them, log-probabilities."""

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}
        self._entries: dict[int, Any] = {}

    @property
    def end(self) -> int:
        """Give the position after the last token whose log-probabilities are kept."""
        return max(self._entries, default=-1) + 1

    def keep(self, choice: Choice, position: int) -> None:
        """Keep the tokens of a choice, of which the first is at `position`.

        What is known of a token already stays: only the first server to write it has sampled it.
        """
        for place, token in enumerate(choice.get("token_ids") or (), start=position):
            self.ids.setdefault(place, token)
        for place, entry in enumerate(_entries(choice), start=position):
            self._entries.setdefault(place, entry)

    def after(self, token_ids: list[int]) -> list[int]:
        """Give these tokens, which the client has, and those kept that follow without a gap."""
        ids = list(token_ids)
        while (following := self.ids.get(len(ids))) is not None:
            ids.append(following)
        return ids

    def restore(self, choice: Choice, position: int) -> None:
        """Put what is kept back into a choice, of which the first token is at `position`."""
        logprobs = choice.get("logprobs")
        if not self._entries or not isinstance(logprobs, dict):
            return
        for place in range(len(list(_entries(choice)))):
            entry = self._entries.get(position + place)
            if entry is None:
                continue
            if isinstance(logprobs.get("content"), list):
                logprobs["content"][place] = entry
                continue
            for name, value in entry.items():
                logprobs[name][place] = value


def _entries(choice: Choice) -> Iterator[Any]:
    """Give what a choice says of each of its tokens; nothing where it says nothing."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return
    content = logprobs.get("content")
    if isinstance(content, list):
        yield from content
        return
    lists = {name: logprobs[name] for name in _LISTS if isinstance(logprobs.get(name), list)}
    for place in range(min(map(len, lists.values()), default=0)):
        yield {name: values[place] for name, values in lists.items()}
