"""Configuration of the fleet: its instances, and how they are monitored."""

from dataclasses import dataclass, field

from llumnix.instances.endpoints.address import Address, BadAddress

SOURCE_SCHEMES = ("dns", "dns+https", "srv", "srv+https", "k8s", "k8s+https")
"""Schemes of URLs that name not a server but where to learn of servers."""


def _file(text: str) -> str:
    """Declare the path of a file; empty where there is none."""
    value: str = field(default="", metadata={"help": text, "unit": "", "metavar": "FILE"})
    return value


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """A server, or with one of the schemes of sources, a place to learn of servers.

    What is left out is as for the whole fleet. Raises ValueError if the URL is none.
    """

    url: str
    api_key_file: str = _file("file that holds the server's API key")
    api_key_env: str = field(
        default="", metadata={"help": "environment variable that holds it", "unit": ""}
    )
    ca_file: str = _file("certificates of the authorities that vouch for the server")
    cert_file: str = _file("our own certificate, for a server that asks for one")
    key_file: str = _file("the private key of cert_file, if that does not hold it")
    verify: bool | None = field(
        default=None, metadata={"help": "check the server's certificate", "unit": ""}
    )
    server_name: str = field(
        default="",
        metadata={"help": "host name on the server's certificate, if not the URL's", "unit": ""},
    )

    def __post_init__(self) -> None:
        if not self.source:
            Address.parse(self.url)
        if self.api_key_file and self.api_key_env:
            raise BadAddress(f"{self.url}: give api_key_file or api_key_env, not both")

    @property
    def source(self) -> str:
        """Return the scheme of a source of servers; "" for a server."""
        scheme = self.url.partition("://")[0].strip().lower()
        return scheme if scheme in SOURCE_SCHEMES else ""


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The instances behind the frontend. Deadlines are wall seconds, other times fleet seconds.

    Raises ValueError if a URL is not http(s) or a bound is not positive.
    """

    instances: tuple[InstanceSpec, ...] = field(
        default=(),
        metadata={
            "help": "base URLs of running servers, or mappings with url, api_key_file, "
            "api_key_env, ca_file, cert_file, key_file, verify, server_name",
            "unit": "",
        },
    )
    instances_file: str = _file(
        "file that lists servers, one URL a line or as a YAML list; followed while it changes"
    )
    instance_api_key_file: str = field(
        default="",
        metadata={
            "help": "file that holds the API key of the instances",
            "unit": "",
            "metavar": "FILE",
            "default": "$LLUMNIX_INSTANCE_API_KEY, else $VLLM_API_KEY, else clients' own keys",
        },
    )
    instance_ca_file: str = field(
        default="",
        metadata={
            "help": "certificates of the authorities that vouch for https instances",
            "unit": "",
            "metavar": "FILE",
            "default": "$SSL_CERT_FILE, else the system's",
        },
    )
    instance_cert_file: str = _file("our own certificate, for instances that ask for one")
    instance_key_file: str = _file(
        "the private key of instance_cert_file, if that does not hold it"
    )
    instance_verify: bool = field(
        default=True, metadata={"help": "check the certificates of https instances", "unit": ""}
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
    control_tls_ca_file: str = field(
        default="",
        metadata={
            "help": "authority that must have signed the certificates of all llumlets; with it, "
            "control links use TLS on both ends, as llumlets must too (migration.tls_*)",
            "unit": "",
            "metavar": "FILE",
        },
    )
    control_tls_cert_file: str = field(
        default="",
        metadata={
            "help": "the frontend's certificate for control links",
            "unit": "",
            "metavar": "FILE",
        },
    )
    control_tls_key_file: str = field(
        default="",
        metadata={
            "help": "the private key of that certificate",
            "unit": "",
            "metavar": "FILE",
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
        default=2.5,
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
    models_interval_s: float = field(
        default=5.0,
        metadata={"help": "longest time for which an instance's models are believed", "unit": "s"},
    )
    sources_interval_s: float = field(
        default=1.0,
        metadata={
            "help": "interval between looks at a file or DNS name that lists instances",
            "unit": "s",
        },
    )
    leave_timeout_s: float = field(
        default=300.0,
        metadata={
            "help": "time for the requests of a removed instance to move away or end, after which "
            "it is forgotten with streams still open",
            "unit": "s",
        },
    )
    start_timeout_s: float = field(
        default=60.0, metadata={"help": "deadline for the emulated instances to start", "unit": "s"}
    )

    def __post_init__(self) -> None:
        if self.emulate < 0:
            raise ValueError(f"emulate must not be negative, not {self.emulate}")
        if self.breaker_failures < 0:
            raise ValueError(f"breaker_failures must not be negative, not {self.breaker_failures}")
        if self.max_poisoned < 1:
            raise ValueError(f"max_poisoned must be at least 1, not {self.max_poisoned}")
        for name in (
            *("speed", "report_interval_s", "report_timeout_s", "contact_timeout_s"),
            *("step_timeout_s", "breaker_open_s"),
            *("models_interval_s", "sources_interval_s", "leave_timeout_s"),
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
