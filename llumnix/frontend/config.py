"""Configuration of the HTTP frontend."""

import ipaddress
from dataclasses import dataclass, field
from typing import Final

PUMPS: Final = ("auto", "c", "python")
ADMIN_PORT: Final = 9011
_MAX_PORT: Final = 65535


def _option(default: float, text: str, unit: str = "") -> float:
    """Declare a numeric option; its metadata feeds the CLI and the docs."""
    value: float = field(default=default, metadata={"help": text, "unit": unit})
    return value


def _count(default: int, text: str, unit: str = "", metavar: str = "") -> int:
    value: int = field(default=default, metadata={"help": text, "unit": unit, "metavar": metavar})
    return value


def _text(default: str, text: str, metavar: str) -> str:
    value: str = field(default=default, metadata={"help": text, "unit": "", "metavar": metavar})
    return value


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """How the frontend listens, queues, forwards and gives up. Times are wall seconds."""

    host: str = _text("127.0.0.1", "address to listen on", "HOST")
    port: int = _count(8000, "port to listen on; 0 picks a free one", metavar="PORT")
    workers: int = _count(
        1,
        "frontend processes that share the port; with more than one, the scheduler has a process "
        "of its own",
        "processes",
    )
    scheduler: str = _text(
        "",
        "address of the scheduler that this frontend shares with others (`llumnix scheduler`), "
        "which knows the instances",
        "HOST:PORT",
    )
    backlog: int = _count(
        4096, "listen backlog; connections beyond it wait for a SYN retransmit", "connections"
    )
    admin_host: str = _text(
        "127.0.0.1", "address of the admin API (`/llumnix/…`), which has its own port", "HOST"
    )
    admin_port: int | None = field(
        default=None,
        metadata={
            "help": "port of the admin API; 0 picks a free one",
            "unit": "",
            "metavar": "PORT",
            "default": "9011; with --port 0 on loopback and no token given, the clients' port",
        },
    )
    admin_token_file: str = _text(
        "",
        "file with the token that admin requests must send (else LLUMNIX_ADMIN_TOKEN, else one "
        "is made and left where local commands find it)",
        "FILE",
    )
    tls_cert_file: str = _text(
        "", "certificate of the clients' port, which then speaks https only (PEM)", "FILE"
    )
    tls_key_file: str = _text("", "the private key of that certificate (PEM)", "FILE")
    tls_client_ca_file: str = _text(
        "", "authority that must have signed the certificates of all clients (PEM)", "FILE"
    )
    admin_tls_cert_file: str = _text(
        "", "certificate of the admin port, which then speaks https only (PEM)", "FILE"
    )
    admin_tls_key_file: str = _text("", "the private key of that certificate (PEM)", "FILE")
    admin_tls_client_ca_file: str = _text(
        "", "authority that must have signed the certificates of admin clients (PEM)", "FILE"
    )
    api_keys_file: str = _text(
        "",
        "file with the API keys that clients must send (`llumnix keys new` makes one); without it "
        "anyone may send requests, and clients' own keys are forwarded",
        "FILE",
    )
    metrics_on_clients_port: bool = field(
        default=True,
        metadata={"help": "serve /metrics on the clients' port too, as vLLM does", "unit": ""},
    )
    body_limit_bytes: int = _count(
        32 * 2**20, "largest request body accepted; a larger one gets a 413", "bytes"
    )
    max_connections: int | None = field(
        default=None,
        metadata={
            "help": "largest number of client connections; to make room, the one idle for longest "
            "is closed",
            "unit": "connections",
            "default": "as the limit on open files allows, at two for each",
        },
    )
    header_limit_bytes: int = _count(
        256 * 1024, "largest head of a request; a larger one gets a 431", "bytes"
    )
    header_timeout_s: float = _option(
        20.0, "deadline for a request's head, after which its connection is closed", "s"
    )
    body_timeout_s: float = _option(
        30.0, "time for a request's body, beyond what it takes at body_rate_bytes_per_s", "s"
    )
    body_rate_bytes_per_s: float = _option(
        10_000.0,
        "pace at which a longer body must arrive, else a 408",
        "bytes/s",
    )
    keepalive_timeout_s: float = _option(
        75.0, "how long a client's connection may be idle between requests", "s"
    )
    allow_paths: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "paths of instances open to clients besides the usual ones, such as /sleep or"
            " /mine/*",
            "unit": "",
        },
    )
    cors_origins: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "origins of web pages that may read answers, such as https://chat.example; *"
            " for all",
            "unit": "",
            "default": "those that the servers allow",
        },
    )
    base_path: str = _text("", "path under which clients reach the frontend, such as /llm", "PATH")
    queue_limit: int = _count(
        10_000, "largest number of queued requests; one more gets a 503", "requests"
    )
    queue_limit_bytes: int = _count(
        2 * 2**30,
        "memory for the bodies of all requests, queued or being served; beyond it, a 503",
        "bytes",
    )
    body_expansion_limit: int = _count(
        200, "how many times its size a compressed body may have; beyond it, a 413", "times"
    )
    queue_timeout_s: float = _option(
        300.0, "longest time a request is queued before it gets a 503", "s"
    )
    retry_after_s: float = _option(2.0, "Retry-After header of a 503 from the queue", "s")
    connect_timeout_s: float = _option(5.0, "deadline for connecting to an instance", "s")
    first_byte_timeout_s: float = _option(
        300.0, "longest time for a stream's first bytes, whatever its instance does", "s"
    )
    patience_s: float = _option(
        3.0,
        "shortest time that a stream may be silent before another instance is tried; longer where "
        "first bytes or tokens have been seen to take longer, or while its instance is busy",
        "s",
    )
    answer_timeout_s: float = _option(3600.0, "deadline for a response that is not streamed", "s")
    idle_timeout_s: float = _option(
        120.0, "longest time that a stream may stall, on its instance's side or its client's", "s"
    )
    claim_patience_s: float = _option(
        2.0,
        "how long a migrated stream waits for its early claim before it is claimed again",
        "s",
    )
    helper_timeout_s: float = _option(
        10.0,
        "deadline for each auxiliary call around a move, such as detokenizing or warming a cache",
        "s",
    )
    max_attempts: int = _count(
        8, "consecutive failures without progress that a request survives", "failures"
    )
    pump: str = field(
        default="auto",
        metadata={
            "help": "what passes streams on: the pump in C, which this machine's compiler builds "
            "once and which takes half the CPU time per token, or Python, as for TLS",
            "unit": "",
            "choices": PUMPS,
        },
    )
    event_limit_bytes: int = _count(8 * 2**20, "largest single server-sent event", "bytes")
    drain_delay_s: float = _option(
        0.0,
        "how long everything is still served at shutdown, while /ready says no already; "
        "as long as a load balancer takes to notice",
        "s",
    )
    shutdown_grace_s: float = _option(
        30.0, "time that open streams have to finish at shutdown, after the drain delay", "s"
    )

    def __post_init__(self) -> None:
        for name in ("drain_delay_s", "shutdown_grace_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in (
            "queue_timeout_s",
            "first_byte_timeout_s",
            "idle_timeout_s",
            "patience_s",
            "claim_patience_s",
            "header_timeout_s",
            "body_timeout_s",
            "body_rate_bytes_per_s",
            "keepalive_timeout_s",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("port", "admin_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= _MAX_PORT:
                raise ValueError(f"{name} must be between 0 and {_MAX_PORT}, not {port}")
        if self.port and self.port == self.admin_port:
            raise ValueError("admin_port must differ from port")
        for name in (
            "workers",
            "backlog",
            "body_limit_bytes",
            "queue_limit_bytes",
            "body_expansion_limit",
            "max_attempts",
            "event_limit_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for path in (*self.allow_paths, self.base_path or "/"):
            if not path.startswith("/"):
                raise ValueError(f"a path must begin with a slash, not {path!r}")
        if self.pump not in PUMPS:
            raise ValueError(f"pump must be one of {', '.join(PUMPS)}, not {self.pump!r}")
        if self.queue_limit < 0:
            raise ValueError(f"queue_limit must not be negative, not {self.queue_limit}")

    def shares_port(self, token: str) -> bool:
        """Whether one port carries clients and admin API: for launchers and tests on loopback."""
        return not (self.port or token) and self.admin_port is None and is_loopback(self.host)

    def admin_port_wanted(self) -> int:
        """Return the admin API's port where it has one of its own."""
        if self.admin_port is not None:
            return self.admin_port
        return ADMIN_PORT if self.port else 0


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
