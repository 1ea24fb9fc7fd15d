"""Stop strings in text of two servers, held against one that sees all of it."""

import random
from collections.abc import Sequence

import pytest

from llumnix.frontend.splicing.stopping import Stopper


def reference(tokens: Sequence[str], stops: Sequence[str], include: bool) -> tuple[str, str | None]:
    """What vLLM makes of the whole text: it looks after every token."""
    text = ""
    for one in tokens:
        new_from, text = len(text), text + one
        hits = []
        for rank, stop in enumerate(stops):
            at = text.find(stop, max(0, new_from - len(stop) + 1))
            if at >= 0:
                hits.append((at + len(stop), rank, at, stop))
        if hits:
            end, _, at, stop = min(hits)
            return text[: end if include else at], stop
    return text, None


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("seed", range(200))
def test_any_cut_of_any_text_is_stopped_where_the_whole_is(seed: int, include: bool) -> None:
    """At every cut: what the client had before it, and what it gets after, is the whole answer."""
    dice = random.Random(seed)
    stops = ["".join(dice.choices("ab", k=dice.randint(1, 4))) for _ in range(dice.randint(1, 3))]
    tokens = ["".join(dice.choices("abc", k=dice.randint(0, 3))) for _ in range(12)]
    wanted, stop = reference(tokens, stops, include)
    hold = 0 if include else max(map(len, stops)) - 1
    for cut in range(len(tokens)):
        before, found = reference(tokens[:cut], stops, include)
        if found is not None:
            break
        sent = before[: max(0, len(before) - hold)]
        stopper = Stopper(stops, include=include, sent=sent, held=before[len(sent) :])
        got, told = sent, None
        for place, one in enumerate(tokens[cut:], start=cut):
            out, told = stopper.feed(one, last=place == len(tokens) - 1)
            got += out
            if told is not None:
                break
        assert (got, told) == (wanted, stop), cut


def test_without_stop_strings_nothing_is_held() -> None:
    stopper = Stopper((), include=False, sent="abc", held="")

    assert stopper.feed("de", last=False) == ("de", None)


def test_a_stop_string_too_early_does_not_count() -> None:
    """Below min_tokens; what ends later may have begun there."""
    stopper = Stopper(["ab", "bc"], include=True, sent="", held="")

    assert stopper.feed("ab", last=False, stops=False) == ("ab", None)
    assert stopper.feed("c", last=False) == ("c", "bc")
