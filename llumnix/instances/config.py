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
        default=10.0,
        metadata={
            "help": "time without a report after which an instance is considered down",
            "unit": "s",
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
        for name in ("speed", "report_interval_s", "report_timeout_s", "contact_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
