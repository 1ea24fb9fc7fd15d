"""Find stop strings in text from two servers: neither sees one that straddles the cut."""

from collections.abc import Sequence


class Stopper:
    """Releases text as vLLM would: cut at a stop string, holding back what may become one.

    `sent` is the text the client has, `held` what follows it and has been held back so far. Only a
    string that ends in new text counts: the known text contains none.
    """

    def __init__(self, stops: Sequence[str], *, include: bool, sent: str, held: str) -> None:
        longest = max(map(len, stops), default=1)
        self._stops = stops
        self._include = include
        self._hold = 0 if include else longest - 1
        self._before = sent[max(0, len(sent) - longest + 1) :]
        self._context = longest - 1
        self._held = held

    def feed(self, text: str, *, last: bool, stops: bool = True) -> tuple[str, str | None]:
        """Take new text; return what is released, and the stop string found, if any.

        `last`: no more text follows, so nothing is held back. `stops` is False for text too early
        for a stop string to count.
        """
        known = self._before + self._held
        whole, start = known + text, len(self._before)
        found = self._find(whole, len(known)) if stops else None
        if found is not None:
            at, stop = found
            end = at + len(stop) if self._include else at
            return whole[start:end], stop
        end = len(whole) if last else max(start, len(whole) - self._hold)
        out, self._held = whole[start:end], whole[end:]
        self._before = whole[max(0, end - self._context) : end]
        return out, None

    def _find(self, whole: str, new_from: int) -> tuple[int, str] | None:
        """Find the stop string that completes first, reading character by character."""
        hits = []
        for rank, stop in enumerate(self._stops):
            at = whole.find(stop, max(0, new_from - len(stop) + 1))
            if at >= 0:
                hits.append((at + len(stop), rank, at, stop))
        return min(hits)[2:] if hits else None
