"""Log-probabilities of tokens that a response ended with and its client has not received.

An instance that replays a request knows its tokens but not their log-probabilities, and writes
dummies in their place. Those the client has are skipped; for the others, those of the response that
ended in a redirect are kept here, by position in the output, and restored.
"""

from collections.abc import Iterator
from typing import Any

_LISTS = ("token_logprobs", "top_logprobs", "tokens")
"""What a completion says of each token; `text_offset` is left to the replaying server."""

Choice = dict[str, Any]


class KeptTokens:
    """Tokens beyond what the client has: `ids` and, if it asked for them, log-probabilities."""

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}
        self._entries: dict[int, Any] = {}

    @property
    def end(self) -> int:
        """Return the position after the last token whose log-probabilities are kept."""
        return max(self._entries, default=-1) + 1

    def keep(self, choice: Choice, position: int) -> None:
        """Keep the tokens of a choice, the first of which is at `position`.

        An entry is never replaced: only the first server to send a token has sampled it.
        """
        for place, token in enumerate(choice.get("token_ids") or (), start=position):
            self.ids.setdefault(place, token)
        for place, entry in enumerate(_entries(choice), start=position):
            self._entries.setdefault(place, entry)

    def after(self, token_ids: list[int]) -> list[int]:
        """Return these tokens, which the client has, and the kept ones that follow gaplessly."""
        ids = list(token_ids)
        while (following := self.ids.get(len(ids))) is not None:
            ids.append(following)
        return ids

    def restore(self, choice: Choice, position: int) -> None:
        """Restore kept entries in a choice, the first token of which is at `position`."""
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
    """Return a choice's entries per token; nothing if it has none."""
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
