"""Settings of the log."""

from dataclasses import dataclass, field

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged on stderr, and how. Raises ValueError for an unknown level or format."""

    level: str = field(
        default="warning",
        metadata={
            "help": "least severe messages to log on stderr",
            "unit": "",
            "choices": LEVELS,
        },
    )
    format: str = field(
        default="logfmt",
        metadata={"help": "form of a log line", "unit": "", "choices": FORMATS},
    )

    def __post_init__(self) -> None:
        for name, known in (("level", LEVELS), ("format", FORMATS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"the log's {name} must be one of {', '.join(known)}, not {value!r}"
                )
