"""Configuration of the fleet: its instances, and how they are monitored."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The instances behind the frontend. Deadlines are wall seconds, other times fleet seconds.

    Raises ValueError if a URL is not http(s) or a bound is not positive.
    """

    instances: tuple[str, ...] = field(
        default=(), metadata={"help": "base URLs of running servers", "unit": ""}
    )
    emulate: int = field(
        default=0,
        metadata={
            "help": "number of emulated instances to start",
            "unit": "instances",
            "metavar": "N",
        },
    )
    speed: float = field(
        default=1.0,
        metadata={
            "help": "emulated seconds per wall-clock second",
            "unit": "",
            "metavar": "FACTOR",
        },
    )
    secret_file: str = field(
        default="",
        metadata={
            "help": "file that holds the fleet's shared secret",
            "unit": "",
            "metavar": "FILE",
            "default": "$LLUMNIX_SECRET",
        },
    )
    report_interval_s: float = field(
        default=0.1,
        metadata={
            "help": "interval between load reports of an instance, in fleet time",
            "unit": "s",
        },
    )
    report_timeout_s: float = field(
        default=2.0,
        metadata={
            "help": "time without a report after which an instance is considered down",
            "unit": "s",
        },
    )
    step_timeout_s: float = field(
        default=3.0,
        metadata={
            "help": "time without an engine step, while requests run, after which an instance is "
            "suspected of hanging; longer where steps have been seen to take long",
            "unit": "s",
        },
    )
    breaker_failures: int = field(
        default=5,
        metadata={
            "help": "failures in a row (or half of the last 20 requests) after which an instance "
            "is left alone for a while; 0 for never",
            "unit": "failures",
        },
    )
    breaker_open_s: float = field(
        default=5.0,
        metadata={
            "help": "how long an instance that keeps failing is left alone before one request "
            "probes it; doubled with each failed probe",
            "unit": "s",
        },
    )
    max_poisoned: int = field(
        default=2,
        metadata={
            "help": "number of instances that a request may take down before it is given up",
            "unit": "instances",
        },
    )
    poll_interval_s: float = field(
        default=1.0,
        metadata={
            "help": "interval between polls of a server without the Llumnix plugin",
            "unit": "s",
        },
    )
    contact_timeout_s: float = field(
        default=5.0,
        metadata={
            "help": "deadline for each request to an instance's control or metrics endpoint",
            "unit": "s",
        },
    )
    reconnect_min_s: float = field(
        default=0.1,
        metadata={"help": "shortest delay before reconnecting to an instance", "unit": "s"},
    )
    reconnect_max_s: float = field(
        default=5.0,
        metadata={"help": "longest delay before reconnecting to an instance", "unit": "s"},
    )
    order_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "time after which a migration with no reported outcome is forgotten",
            "unit": "s",
        },
    )
    assumed_capacity_tokens: int = field(
        default=100_000,
        metadata={
            "help": "KV cache size assumed for a server that does not report its own",
            "unit": "tokens",
        },
    )
    start_timeout_s: float = field(
        default=60.0, metadata={"help": "deadline for the emulated instances to start", "unit": "s"}
    )

    def __post_init__(self) -> None:
        for url in self.instances:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"an instance must be a URL such as http://gpu1:8000, not {url!r}")
        if self.emulate < 0:
            raise ValueError(f"emulate must not be negative, not {self.emulate}")
        if self.breaker_failures < 0:
            raise ValueError(f"breaker_failures must not be negative, not {self.breaker_failures}")
        if self.max_poisoned < 1:
            raise ValueError(f"max_poisoned must be at least 1, not {self.max_poisoned}")
        for name in (
            *("speed", "report_interval_s", "report_timeout_s", "contact_timeout_s"),
            *("step_timeout_s", "breaker_open_s"),
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
