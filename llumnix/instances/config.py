"""Configuration of the fleet: which instances there are, and how they are watched."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The instances behind the frontend. Decision times are fleet seconds, deadlines wall seconds.

    Raises ValueError when a URL is not http(s), or a bound is not positive.
    """

    instances: tuple[str, ...] = field(
        default=(), metadata={"help": "base URLs of running servers", "unit": ""}
    )
    emulate: int = field(
        default=0, metadata={"help": "emulated instances to start", "unit": "instances"}
    )
    speed: float = field(
        default=1.0,
        metadata={"help": "how much faster than the wall clock an emulated fleet runs", "unit": ""},
    )
    secret_file: str = field(
        default="",
        metadata={
            "help": "file with the fleet's shared secret; unset: LLUMNIX_SECRET",
            "unit": "",
        },
    )
    report_interval_s: float = field(
        default=0.1,
        metadata={"help": "how often instances report their load (fleet time)", "unit": "s"},
    )
    report_timeout_s: float = field(
        default=10.0,
        metadata={"help": "an instance that reports nothing for this long is down", "unit": "s"},
    )
    poll_interval_s: float = field(
        default=1.0,
        metadata={"help": "how often servers without our plugin are asked", "unit": "s"},
    )
    contact_timeout_s: float = field(
        default=5.0, metadata={"help": "deadline for asking an instance anything", "unit": "s"}
    )
    reconnect_min_s: float = field(
        default=0.1, metadata={"help": "first wait before an instance is tried again", "unit": "s"}
    )
    reconnect_max_s: float = field(
        default=5.0,
        metadata={"help": "longest wait before an instance is tried again", "unit": "s"},
    )
    order_timeout_s: float = field(
        default=60.0,
        metadata={"help": "a migration nobody reported the end of is forgotten", "unit": "s"},
    )
    assumed_capacity_tokens: int = field(
        default=100_000,
        metadata={"help": "KV memory of a server that does not tell", "unit": "tokens"},
    )
    start_timeout_s: float = field(
        default=60.0, metadata={"help": "deadline for emulated instances to start", "unit": "s"}
    )

    def __post_init__(self) -> None:
        for url in self.instances:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"an instance is a URL like http://gpu1:8000, not {url!r}")
        if self.emulate < 0:
            raise ValueError(f"emulate must not be negative, not {self.emulate}")
        for name in ("speed", "report_interval_s", "report_timeout_s", "contact_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
