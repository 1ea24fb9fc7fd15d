"""An emulated link: slower than the real one, with the bandwidth a real model's KV would get."""

import asyncio
from collections.abc import Callable

from migration.config import MigrationConfig
from migration.layout import Layout

LONGEST_FRAME_S = 0.25
"""Frames are cut so that one occupies the emulated link for at most this long, in wall seconds: the
destination must receive something now and then."""


class Shaper:
    """Computes when a frame would have been sent if this instance's uplink had the configured
    speed.

    All migrations out of an instance share its link. `clock` gives wall seconds, the configured
    speed is in fleet seconds, of which `speed` pass in one.
    """

    def __init__(self, config: MigrationConfig, clock: Callable[[], float], speed: float) -> None:
        per_s = config.link_bytes_per_s * speed
        self._seconds_per_token = config.link_bytes_per_token / per_s if per_s else 0.0
        self._chunk_bytes = config.chunk_bytes
        self._clock = clock
        self._free_at_s = 0.0

    def frame_blocks(self, layout: Layout) -> int:
        """Return how many blocks go into a frame."""
        blocks = self._chunk_bytes // layout.block_bytes
        block_s = self._seconds_per_token * layout.block_tokens
        if block_s:
            blocks = min(blocks, int(LONGEST_FRAME_S / block_s))
        return max(1, blocks)

    def book(self, tokens: int) -> float:
        """Put tokens on the link; return when they have been sent."""
        begin_s = max(self._clock(), self._free_at_s)
        self._free_at_s = begin_s + tokens * self._seconds_per_token
        return self._free_at_s

    async def wait_until(self, moment_s: float) -> None:
        """Wait until a given time; return at once when it has passed."""
        if (left_s := moment_s - self._clock()) > 0:
            await asyncio.sleep(left_s)
