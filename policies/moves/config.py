"""When requests are moved, and how many at once."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RebalanceConfig:
    """When to migrate, and how much at once. Times are fleet seconds.

    Raises ValueError when the thresholds are too close, or a bound is not positive.
    """

    interval_s: float = field(
        default=0.25, metadata={"help": "how often the fleet is rebalanced", "unit": "s"}
    )
    low_steps: float = field(
        default=64.0,
        metadata={
            "help": "instances less free than this give requests away",
            "unit": "decode steps",
        },
    )
    high_steps: float = field(
        default=100.0,
        metadata={"help": "instances freer than this take requests in", "unit": "decode steps"},
    )
    hysteresis_steps: float = field(
        default=16.0,
        metadata={
            "help": "a source stays one until it is this far above the low threshold",
            "unit": "decode steps",
        },
    )
    min_gain_steps: float = field(
        default=4.0,
        metadata={
            "help": "moves that make the pair's fuller instance less than this freer are not made",
            "unit": "decode steps",
        },
    )
    max_concurrent_out: int = field(
        default=1, metadata={"help": "moves under way from one instance", "unit": "migrations"}
    )
    max_concurrent_in: int = field(
        default=2, metadata={"help": "moves under way to one instance", "unit": "migrations"}
    )
    max_concurrent_drain: int = field(
        default=4,
        metadata={"help": "moves under way from one instance being drained", "unit": "migrations"},
    )
    max_concurrent: int = field(
        default=32, metadata={"help": "moves under way in the whole fleet", "unit": "migrations"}
    )
    order_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "an order nobody reported the end of is given up after this",
            "unit": "s",
        },
    )
    retry_after_s: float = field(
        default=1.0,
        metadata={
            "help": "a pair whose order came to nothing is left alone this long",
            "unit": "s",
        },
    )
    max_age_s: float = field(
        default=5.0,
        metadata={"help": "reports older than this are not trusted to migrate by", "unit": "s"},
    )

    def __post_init__(self) -> None:
        if self.hysteresis_steps < 0 or self.low_steps + self.hysteresis_steps > self.high_steps:
            raise ValueError(
                f"low_steps ({self.low_steps:g}) plus hysteresis_steps ({self.hysteresis_steps:g}) "
                f"must not exceed high_steps ({self.high_steps:g}), or moves provoke moves back"
            )
        for name in ("interval_s", "order_timeout_s", "retry_after_s", "max_age_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("max_concurrent_out", "max_concurrent_in", "max_concurrent_drain"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def release_steps(self) -> float:
        """Freeness at which a source is one no longer, and below which no move may push anyone."""
        return self.low_steps + self.hysteresis_steps
