"""When to migrate requests, and how many at once."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RebalanceConfig:
    """When to rebalance, and how many migrations to run at once. Times are fleet seconds.

    Raises ValueError if the thresholds are too close or a bound is not positive.
    """

    interval_s: float = field(
        default=0.25, metadata={"help": "interval between rounds of rebalancing", "unit": "s"}
    )
    low_steps: float = field(
        default=64.0,
        metadata={
            "help": "freeness below which an instance migrates requests out",
            "unit": "decode steps",
        },
    )
    high_steps: float = field(
        default=100.0,
        metadata={
            "help": "freeness above which an instance accepts migrations",
            "unit": "decode steps",
        },
    )
    hysteresis_steps: float = field(
        default=16.0,
        metadata={
            "help": "how far above low_steps a source must rise before it stops being one",
            "unit": "decode steps",
        },
    )
    min_gain_steps: float = field(
        default=4.0,
        metadata={
            "help": "smallest gain worth a migration, for the fuller instance of the pair",
            "unit": "decode steps",
        },
    )
    max_concurrent_out: int = field(
        default=1,
        metadata={
            "help": "largest number of concurrent migrations out of an instance",
            "unit": "migrations",
        },
    )
    max_concurrent_in: int = field(
        default=2,
        metadata={
            "help": "largest number of concurrent migrations into an instance",
            "unit": "migrations",
        },
    )
    max_concurrent_drain: int = field(
        default=4,
        metadata={
            "help": "largest number of concurrent migrations out of an instance being drained",
            "unit": "migrations",
        },
    )
    max_concurrent: int = field(
        default=32,
        metadata={
            "help": "largest number of concurrent migrations in the fleet",
            "unit": "migrations",
        },
    )
    order_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "time after which a migration with no reported outcome is given up",
            "unit": "s",
        },
    )
    retry_after_s: float = field(
        default=1.0,
        metadata={
            "help": "delay before a pair is tried again after a failed migration",
            "unit": "s",
        },
    )
    max_age_s: float = field(
        default=5.0,
        metadata={
            "help": "age above which an instance's report is too old to migrate by",
            "unit": "s",
        },
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
        """The freeness at which a source stops being one; no move may push an instance below it."""
        return self.low_steps + self.hysteresis_steps
