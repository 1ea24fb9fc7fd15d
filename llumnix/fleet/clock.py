"""The fleet's clock: emulated fleets run `speed` times faster than the wall clock."""

import asyncio
import time


class FleetClock:
    """Monotonic time in fleet seconds; with `speed` 1 these are wall seconds."""

    def __init__(self, speed: float = 1.0) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be positive, not {speed}")
        self.speed = speed

    def now_s(self) -> float:
        """Read the clock, in fleet seconds from an arbitrary origin."""
        return time.monotonic() * self.speed

    async def sleep_s(self, duration_s: float) -> None:
        """Sleep for a duration given in fleet seconds."""
        await asyncio.sleep(max(0.0, duration_s) / self.speed)
