"""Configuration of the HTTP frontend."""

from dataclasses import dataclass, field


def _option(default: float, text: str, unit: str = "") -> float:
    """Declare a numeric option; its metadata feeds the CLI and the docs."""
    value: float = field(default=default, metadata={"help": text, "unit": unit})
    return value


def _count(default: int, text: str, unit: str = "") -> int:
    value: int = field(default=default, metadata={"help": text, "unit": unit})
    return value


def _text(default: str, text: str) -> str:
    value: str = field(default=default, metadata={"help": text, "unit": ""})
    return value


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """How the frontend listens, holds, forwards and gives up. Times are wall seconds."""

    host: str = _text("127.0.0.1", "address to listen on")
    port: int = _count(8000, "port to listen on; 0 picks a free one")
    backlog: int = _count(4096, "listen backlog; a burst beyond it waits for SYN retransmits")
    body_limit_bytes: int = _count(32 * 2**20, "largest request body accepted", "bytes")
    queue_limit: int = _count(10_000, "requests held while no instance could start them")
    queue_timeout_s: float = _option(300.0, "longest a request is held before a 503", "s")
    retry_after_s: float = _option(2.0, "Retry-After told to clients when the queue is full", "s")
    connect_timeout_s: float = _option(5.0, "deadline for connecting to an instance", "s")
    first_byte_timeout_s: float = _option(
        300.0, "deadline for a stream's first bytes; then it is placed elsewhere once", "s"
    )
    answer_timeout_s: float = _option(3600.0, "deadline for an answer that is not streamed", "s")
    idle_timeout_s: float = _option(
        120.0, "longest silence within a stream, of the instance or of the client", "s"
    )
    claim_patience_s: float = _option(
        2.0,
        "longest wait, after a redirect, for what was claimed early; then it is asked anew",
        "s",
    )
    helper_timeout_s: float = _option(
        10.0, "deadline for what a server is asked around a move: decode ids, warm its cache", "s"
    )
    max_attempts: int = _count(8, "failures in a row, without progress, a request survives")
    event_limit_bytes: int = _count(8 * 2**20, "largest single server-sent event", "bytes")
    shutdown_grace_s: float = _option(30.0, "time open streams get to end at shutdown", "s")

    def __post_init__(self) -> None:
        for name in (
            "queue_timeout_s",
            "first_byte_timeout_s",
            "idle_timeout_s",
            "claim_patience_s",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("backlog", "body_limit_bytes", "max_attempts", "event_limit_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.queue_limit < 0:
            raise ValueError(f"queue_limit must not be negative, not {self.queue_limit}")
