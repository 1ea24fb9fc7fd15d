"""`llumnix top`: a live view of a running fleet in the terminal."""

import argparse
import time
from collections import deque
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live

from llumnix.admin.client import AdminClient
from llumnix.admin.connect import add_frontend, admin_client
from llumnix.admin.live_view import Rates, render
from llumnix.admin.schema import EventRecord, FleetStatus
from llumnix.errors import ConfigError, LlumnixError

_EVENTS_KEPT: Final = 200
_RATE_WINDOW_POLLS: Final = 20
_TIMEOUT_S: Final = 2.0


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `top` command to the CLI."""
    parser = subparsers.add_parser(
        "top",
        help="watch a running fleet live in the terminal",
        description="Watch a running fleet live: its instances and how much room they have, "
        "requests on the move, and what happened lately. Leave with Ctrl-C.",
    )
    add_frontend(parser)
    parser.add_argument(
        "--interval-s",
        type=float,
        default=0.5,
        metavar="N",
        help="seconds between two looks (default: %(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="print one frame and leave")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Watch until interrupted, which counts as success; raises LlumnixError only with --once."""
    if args.interval_s <= 0:
        raise ConfigError(f"--interval-s must be positive, not {args.interval_s:g}")
    console = Console()
    watch = FleetPoll(admin_client(args, _TIMEOUT_S))
    if args.once or not console.is_terminal:
        watch.look()
        console.print(watch.frame(console.width, console.height))
        return 0
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                problem = watch.try_to_look()
                live.update(watch.frame(console.width, console.height, problem), refresh=True)
                time.sleep(args.interval_s)
    except KeyboardInterrupt:
        return 0


class FleetPoll:
    """Polls a fleet, and remembers what a frame needs."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._fleet: FleetStatus | None = None
        self._events: deque[EventRecord] = deque(maxlen=_EVENTS_KEPT)
        self._after = 0
        self._meter = RateMeter()

    def look(self) -> None:
        """Fetch the fleet's status and new events; raises LlumnixError."""
        self._fleet = self._client.fleet()
        self._meter.add(self._fleet)
        news = self._client.events(self._after)
        if news.next < self._after:
            # A new frontend at the same address counts its events from 1 again.
            self._events.clear()
            news = self._client.events(0)
        self._after = news.next
        self._events.extend(news.events)

    def try_to_look(self) -> str:
        """Poll; return what went wrong, if anything."""
        try:
            self.look()
        except LlumnixError as error:
            return f"Trying again … {error}"
        return ""

    def frame(self, width: int, height: int, problem: str = "") -> RenderableType:
        """Draw the last state fetched."""
        rates = self._meter.rates()
        return render(self._fleet, list(self._events), width, height, rates, problem)


class RateMeter:
    """Turns totals at several times into rates over the last few polls."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int, int]] = deque(maxlen=_RATE_WINDOW_POLLS)

    def add(self, fleet: FleetStatus) -> None:
        """Add totals; start over if the fleet clock went back (a new frontend)."""
        if self._seen and fleet.now_s < self._seen[-1][0]:
            self._seen.clear()
        totals = fleet.totals
        counts = totals.requests, totals.finished, totals.migrations_committed
        self._seen.append((fleet.now_s, *counts))

    def rates(self) -> Rates | None:
        """Return the rates; None until there are totals of two different times."""
        if len(self._seen) < 2:
            return None
        first, last = self._seen[0], self._seen[-1]
        span_s = last[0] - first[0]
        if span_s <= 0:
            return None
        arrived, finished, moved = (b - a for a, b in zip(first[1:], last[1:], strict=True))
        return Rates(arrived / span_s, finished / span_s, 60 * moved / span_s)
