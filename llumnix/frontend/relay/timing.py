"""Time one client's stream: first token, pace, and the pauses caused by its moves."""

from llumnix.fleet.account import Account
from llumnix.frontend.context import ServingContext
from llumnix.frontend.splicing.ledger import Pace


class Timing:
    """Records when a stream's bytes are sent, for the tally. Times are wall seconds."""

    def __init__(
        self, context: ServingContext, class_name: str, arrived_at: float, account: Account
    ) -> None:
        self.pace = Pace()
        self._context = context
        self._account = account
        self._class_name = class_name
        self._arrived_at = arrived_at
        self._moved_at: tuple[float, bool] | None = None

    @property
    def paused(self) -> bool:
        """Whether the stream is paused by a move."""
        return self._moved_at is not None

    def first(self, now: float) -> None:
        """Note the stream's first bytes."""
        self.pace.first_at = now
        waited_s = self._context.fleet_seconds(now - self._arrived_at)
        self._context.tally.first_token(self._class_name, waited_s)
        self._account.ttft_s = waited_s

    def left(self, *, migrated: bool) -> None:
        """Note that the stream has left its instance; only the first cause of a pause counts."""
        if self._moved_at is None:
            self._moved_at = self.pace.last_at, migrated

    def goes_on(self, now: float, tokens: int) -> None:
        """Note the first new bytes after a move; `tokens` had been sent before it."""
        assert self._moved_at is not None, "only after a move"
        (last_at, migrated), self._moved_at = self._moved_at, None
        gap_s = now - last_at
        interval_s = self.pace.mean_interval_s(tokens)
        self.pace.add_gap(gap_s)
        if migrated:
            speed = self._context.fleet_seconds
            self._context.tally.moved(speed(gap_s), speed(max(0.0, gap_s - interval_s)))

    def ended(self, tokens: int) -> None:
        """Note how much the client has got, whether the stream finished or not."""
        spent_s = self.pace.last_at - self.pace.first_at
        self._account.output_tokens = tokens
        if tokens > 1:
            self._account.tpot_s = self._context.fleet_seconds(spent_s / (tokens - 1))

    def finished(self, tokens: int) -> None:
        """Note the stream's proper end."""
        seconds = self._context.fleet_seconds
        self._context.tally.answered(
            self._class_name,
            seconds(self.pace.last_at - self._arrived_at),
            tokens,
            self._account.tpot_s,
        )
