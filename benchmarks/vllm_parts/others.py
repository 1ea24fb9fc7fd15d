"""Streams that decode beside a migration: how much slower they are while it lasts."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean
from typing import Any, Self

import numpy as np

from harness import Stream
from vllm_parts.pairs import BEFORE_TOKENS, MAX_TOKENS, Pair, Sample, Story, end, until

OTHERS = 4
"""Streams on each server."""
THEIR_PROMPT, THEIR_TOKENS = 16, 4000
SETTLE_S = 0.3
WINDOW_S = 1.0
"""How long the streams are watched before the first move; later as long as the last took."""

SIDES = ("source", "destination")


class Neighbours:
    """Keeps streams running on both servers of a pair; use it as an async context manager."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._streams: dict[str, list[Stream]] = {name: [] for name in pair.servers}
        self._tasks: list[asyncio.Task[None]] = []
        self._window_s = WINDOW_S

    async def __aenter__(self) -> Self:
        for name in self._pair.servers:
            self._tasks += [asyncio.create_task(self._decode(name)) for _ in range(OTHERS)]
        running = self._streams.values()
        await until(
            lambda: all(
                len(each) >= OTHERS and all(one.token_ids for one in each) for each in running
            )
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(*self._tasks)

    async def moved_beside(self, context_tokens: int) -> Sample:
        """Move a stream and watch the others: during, and in two windows just before."""
        story = Story.new(context_tokens - BEFORE_TOKENS)
        stream = Stream(story.prompt, MAX_TOKENS)
        running = asyncio.create_task(stream.run(self._pair.session, self._pair.url, story.extra))
        try:
            await until(lambda: len(stream.token_ids) >= BEFORE_TOKENS // 4 or running.done())
            await asyncio.sleep(SETTLE_S + 2 * self._window_s)
            move = await self._pair.move(stream.request_id)
            await asyncio.sleep(SETTLE_S)
        finally:
            await end(running)
        assert not stream.error, stream.error
        before_s, self._window_s = self._window_s, move.committed_s - move.ordered_s
        bounds_s = [move.ordered_s + back * before_s for back in (-2, -1, 0)]
        sample: Sample = {"took_ms": self._window_s * 1e3}
        for side in SIDES:
            earlier, before, during = (
                self._intervals_ms(move.event[side], from_s, until_s)
                for from_s, until_s in pairwise([*bounds_s, move.committed_s])
            )
            quiet = mean([*earlier, *before])
            sample |= {
                f"{side}_quiet_ms": quiet,
                f"{side}_during_ms": mean(during),
                f"{side}_ratio": mean(during) / quiet,
                f"{side}_null": mean(before) / mean(earlier),
                f"{side}_worst": max(during) / quiet,
                f"{side}_quiet_worst": max([*earlier, *before]) / quiet,
            }
        return sample

    def _intervals_ms(self, server: str, from_s: float, until_s: float) -> list[float]:
        """List the intervals of a server's streams that ended within these bounds."""
        found: list[float] = []
        for stream in self._streams[server]:
            times = np.array(stream.times_s)
            ended = (times[1:] >= from_s) & (times[1:] < until_s)
            found += list(np.diff(times)[ended] * 1e3)
        return found

    async def _decode(self, server: str) -> None:
        while True:
            stream = Stream(Story.new(THEIR_PROMPT).prompt, THEIR_TOKENS)
            self._streams[server].append(stream)
            await stream.run(self._pair.session, self._pair.servers[server], {"temperature": 0})
            assert not stream.error, stream.error


def summed_up(busy: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Summarise all repeats, by side. `null` compares two windows in which nothing moved."""
    return {
        side: {
            "before": mean(one[f"{side}_quiet_ms"] for one in busy),
            "during": mean(one[f"{side}_during_ms"] for one in busy),
            "ratio": mean(one[f"{side}_ratio"] for one in busy),
            "null": mean(one[f"{side}_null"] for one in busy),
            "worst / interval": max(one[f"{side}_worst"] for one in busy),
            "worst before / interval": max(one[f"{side}_quiet_worst"] for one in busy),
        }
        for side in SIDES
    }
