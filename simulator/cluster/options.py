"""What a simulated fleet is like: the `simulator` section of the configuration."""

from dataclasses import dataclass, field

from migration.layout import Layout
from policies.types import InstanceId
from simulator.cluster.instance import InstanceShape
from simulator.costs import preset
from simulator.roster import EngineLimits


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """A fleet of equal instances in virtual time. What is unset is taken from the preset.

    Raises ValueError for an unknown preset and for what makes no sense.
    """

    instances: int = field(default=16, metadata={"help": "size of the fleet", "unit": "instances"})
    preset: str = field(
        default="llama-7b-a10", metadata={"help": "cost model: a model on a GPU", "unit": ""}
    )
    capacity_tokens: int | None = field(
        default=None, metadata={"help": "KV memory of an instance", "unit": "tokens"}
    )
    block_tokens: int | None = field(
        default=None, metadata={"help": "size of a KV block", "unit": "tokens"}
    )
    max_num_seqs: int = field(default=128, metadata={"help": "largest batch", "unit": "requests"})
    token_budget: int = field(
        default=512, metadata={"help": "tokens computed in one step at most", "unit": "tokens"}
    )
    prefix_caching: bool = field(
        default=False,
        metadata={
            "help": "prompts that begin alike share KV, where the trace tells which do",
            "unit": "",
        },
    )
    link_bytes_per_s: int | None = field(
        default=None,
        metadata={"help": "speed of an instance's port, shared by its migrations", "unit": "B/s"},
    )
    message_latency_us: int = field(
        default=300,
        metadata={"help": "time a message between llumlets takes, one way", "unit": "us"},
    )
    copy_slowdown: float = field(
        default=0.01,
        metadata={
            "help": "share by which a step is longer while KV is copied from or to its instance",
            "unit": "",
        },
    )
    report_interval_s: float = field(
        default=0.1, metadata={"help": "how often instances report their load", "unit": "s"}
    )
    queue_limit: int = field(
        default=100_000,
        metadata={"help": "requests held before more are rejected", "unit": "requests"},
    )

    def __post_init__(self) -> None:
        preset(self.preset)
        for name in ("instances", "max_num_seqs", "token_budget", "report_interval_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.message_latency_us < 0 or self.queue_limit < 0:
            raise ValueError("message_latency_us and queue_limit must not be negative")
        if not 0 <= self.copy_slowdown <= 1:
            raise ValueError(f"copy_slowdown must be within [0, 1], not {self.copy_slowdown}")
        for name in ("capacity_tokens", "block_tokens", "link_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")

    def shape(self, classes: int) -> InstanceShape:
        """Say what every instance is like, for so many priority classes."""
        known = preset(self.preset)
        block_tokens = self.block_tokens or known.block_tokens
        limits = EngineLimits(
            capacity_tokens=self.capacity_tokens or known.capacity_tokens,
            block_tokens=block_tokens,
            max_num_seqs=self.max_num_seqs,
            token_budget=self.token_budget,
            classes=classes,
            prefix_caching=self.prefix_caching,
        )
        layout = Layout(
            engine="simulated",
            model=known.name,
            dtype="none",
            block_tokens=block_tokens,
            block_bytes=block_tokens * known.kv_bytes_per_token,
        )
        return InstanceShape(limits, known.costs, layout, round(self.copy_slowdown * 1000))

    def bytes_per_s(self) -> int:
        """The speed of an instance's port."""
        return self.link_bytes_per_s or preset(self.preset).link_bytes_per_s

    def names(self) -> tuple[InstanceId, ...]:
        """Name the instances."""
        return tuple(InstanceId(f"instance-{number}") for number in range(self.instances))


@dataclass(frozen=True, slots=True)
class Outage:
    """An instance that dies at a moment, and is back, empty, after a while (never, if None)."""

    instance_id: InstanceId
    at_s: float
    down_s: float | None = None
