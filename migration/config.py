"""Configuration of migrations: limits, timeouts and the emulated link."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MigrationConfig:
    """Settings of a llumlet. Timeouts are wall seconds; cooldown and intervals fleet seconds.

    Raises ValueError if a bound or a timeout is not positive.
    """

    max_stages: int = field(
        default=8,
        metadata={
            "help": "live copy stages before the final one is forced; 0 for stop-and-copy",
            "unit": "stages",
        },
    )
    slack_blocks: int = field(
        default=2,
        metadata={"help": "blocks reserved beyond what a stage needs", "unit": "blocks"},
    )
    max_concurrent_out: int = field(
        default=4,
        metadata={"help": "largest number of concurrent migrations out", "unit": "migrations"},
    )
    max_concurrent_in: int = field(
        default=4,
        metadata={"help": "largest number of concurrent migrations in", "unit": "migrations"},
    )
    cooldown_s: float = field(
        default=5.0,
        metadata={
            "help": "shortest time a migrated request stays before it may migrate again",
            "unit": "s",
        },
    )
    reserve_timeout_s: float = field(
        default=2.0,
        metadata={"help": "deadline for the destination to answer a reservation", "unit": "s"},
    )
    stage_timeout_s: float = field(
        default=5.0,
        metadata={
            "help": "longest time without progress within a stage, on either side",
            "unit": "s",
        },
    )
    detach_timeout_s: float = field(
        default=5.0,
        metadata={"help": "deadline for the engine to reach a step boundary", "unit": "s"},
    )
    commit_timeout_s: float = field(
        default=2.0, metadata={"help": "deadline for the answer to a commit", "unit": "s"}
    )
    query_timeout_s: float = field(
        default=1.0,
        metadata={"help": "deadline for each query about the outcome of a commit", "unit": "s"},
    )
    query_attempts: int = field(
        default=2,
        metadata={
            "help": "queries about a commit before the frontend is left to decide",
            "unit": "queries",
        },
    )
    claim_timeout_s: float = field(
        default=5.0,
        metadata={
            "help": "time after which a migrated request is freed if no client claims it",
            "unit": "s",
        },
    )
    connect_timeout_s: float = field(
        default=2.0, metadata={"help": "deadline for a connection and its handshake", "unit": "s"}
    )
    max_header_bytes: int = field(
        default=1 << 20, metadata={"help": "largest message accepted", "unit": "bytes"}
    )
    max_payload_bytes: int = field(
        default=64 << 20, metadata={"help": "largest frame of blocks accepted", "unit": "bytes"}
    )
    chunk_bytes: int = field(
        default=4 << 20,
        metadata={"help": "approximate size of a frame of blocks", "unit": "bytes"},
    )
    max_connections: int = field(
        default=256,
        metadata={
            "help": "largest number of concurrent connections accepted",
            "unit": "connections",
        },
    )
    max_remembered: int = field(
        default=4096,
        metadata={
            "help": "number of finished migrations whose outcome is remembered",
            "unit": "migrations",
        },
    )
    tls_ca_file: str = field(
        default="",
        metadata={
            "help": "authority that must have signed the certificates of all members of the fleet; "
            "with it, control and KV links use TLS on both ends (PEM)",
            "metavar": "FILE",
        },
    )
    tls_cert_file: str = field(
        default="",
        metadata={"help": "this member's certificate for links (PEM)", "metavar": "FILE"},
    )
    tls_key_file: str = field(
        default="",
        metadata={"help": "the private key of that certificate (PEM)", "metavar": "FILE"},
    )
    link_bytes_per_s: float = field(
        default=0.0,
        metadata={"help": "emulated link speed; 0 for no limit", "unit": "bytes/s"},
    )
    link_bytes_per_token: int = field(
        default=0,
        metadata={"help": "KV bytes per token charged to the emulated link", "unit": "bytes"},
    )

    def __post_init__(self) -> None:
        files = (self.tls_ca_file, self.tls_cert_file, self.tls_key_file)
        if any(files) and not all(files):
            raise ValueError("tls_ca_file, tls_cert_file and tls_key_file are given together")
        for name in (
            "max_stages",
            "slack_blocks",
            "cooldown_s",
            "link_bytes_per_s",
            "link_bytes_per_token",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")


_POSITIVE = (
    "max_concurrent_out",
    "max_concurrent_in",
    "reserve_timeout_s",
    "stage_timeout_s",
    "detach_timeout_s",
    "commit_timeout_s",
    "query_timeout_s",
    "query_attempts",
    "claim_timeout_s",
    "connect_timeout_s",
    "max_header_bytes",
    "max_payload_bytes",
    "chunk_bytes",
    "max_connections",
    "max_remembered",
)
