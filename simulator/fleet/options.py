"""The configuration of a simulated fleet: its `simulator` section."""

from dataclasses import dataclass, field

from migration.layout import Layout
from policies.scaling import ScalingConfig
from policies.types import InstanceId
from simulator.costs.presets import preset
from simulator.engine.roster import EngineLimits
from simulator.engine.speculation import Guesses, Speculation
from simulator.fleet.instance import InstanceShape

KERNELS = ("auto", "steps", "plain", "compiled")


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """A fleet of equal instances in virtual time. Unset values come from the preset.

    Raises ValueError for an unknown preset and for inconsistent options.
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
    max_num_seqs: int | None = field(
        default=None, metadata={"help": "largest batch", "unit": "requests"}
    )
    token_budget: int | None = field(
        default=None, metadata={"help": "tokens computed in one step at most", "unit": "tokens"}
    )
    schedules_ahead: bool | None = field(
        default=None,
        metadata={
            "help": "steps are made up while the one before is computed, as vLLM does with "
            "asynchronous scheduling: who arrives meanwhile is in the one after",
            "unit": "",
        },
    )
    prefix_caching: bool = field(
        default=False,
        metadata={
            "help": "prompts that begin alike share KV, where the trace tells which do",
            "unit": "",
        },
    )
    draft_tokens: int = field(
        default=0,
        metadata={"help": "tokens guessed ahead for each decode of a step", "unit": "tokens"},
    )
    acceptance: float | None = field(
        default=None, metadata={"help": "probability that a guessed token is right", "unit": ""}
    )
    draft_us: int = field(
        default=0,
        metadata={"help": "time in which one token is guessed for a whole batch", "unit": "us"},
    )
    kernel: str = field(
        default="auto",
        metadata={
            "help": "what does the work, with equal results: auto, steps (one by one), plain "
            "(skips them), or compiled (by numba)",
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
    scaling: ScalingConfig = field(
        default=ScalingConfig(),
        metadata={"help": "when machines are ordered and given back; simulations only"},
    )
    start_delay_s: float = field(
        default=60.0,
        metadata={
            "help": "from a machine's order to its first request: provisioning, weights, warm-up",
            "unit": "s",
        },
    )

    def __post_init__(self) -> None:
        preset(self.preset)
        for name in ("instances", "report_interval_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("message_latency_us", "queue_limit", "draft_tokens", "draft_us"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        if self.acceptance is not None and not 0 <= self.acceptance <= 1:
            raise ValueError(f"acceptance must be within [0, 1], not {self.acceptance}")
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {self.kernel!r}")
        if not 0 <= self.copy_slowdown <= 1:
            raise ValueError(f"copy_slowdown must be within [0, 1], not {self.copy_slowdown}")
        if not 0 <= self.start_delay_s < float("inf"):
            raise ValueError(f"start_delay_s must be 0 or more, not {self.start_delay_s}")
        for name in (
            "max_num_seqs",
            "token_budget",
            "capacity_tokens",
            "block_tokens",
            "link_bytes_per_s",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, not {value}")

    def shape(self, classes: int, seed: int = 0) -> InstanceShape:
        """Return what every instance is like, for so many priority classes.

        Raises ValueError for options that do not fit together. `seed` decides which guesses are
        right.
        """
        most = self.scaling.max_instances
        if most is not None and not self.scaling.min_instances <= self.instances <= most:
            raise ValueError(
                f"a fleet of {self.instances} instances cannot be kept between "
                f"{self.scaling.min_instances} and {most} (scaling.min_instances, "
                "scaling.max_instances)"
            )
        known = preset(self.preset)
        block_tokens = self.block_tokens or known.block_tokens
        limits = EngineLimits(
            capacity_tokens=self.capacity_tokens or known.capacity_tokens,
            block_tokens=block_tokens,
            max_num_seqs=self.max_num_seqs or known.max_num_seqs,
            token_budget=self.token_budget or known.token_budget,
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
        speculation = self.speculation()
        return InstanceShape(
            limits,
            known.costs,
            layout,
            round(self.copy_slowdown * 1000),
            None if speculation is None else Guesses(speculation, seed),
            known.schedules_ahead if self.schedules_ahead is None else self.schedules_ahead,
        )

    def speculation(self) -> Speculation | None:
        """Return how instances speculate; raises ValueError for incomplete options."""
        if not self.draft_tokens:
            if self.acceptance is not None or self.draft_us:
                raise ValueError("acceptance and draft_us have no effect without draft_tokens")
            return None
        if self.acceptance is None:
            raise ValueError("draft_tokens needs acceptance: how often a guessed token is right")
        return Speculation(self.draft_tokens, self.acceptance, self.draft_us * 1000)

    def bytes_per_s(self) -> int:
        """The speed of an instance's port."""
        return self.link_bytes_per_s or preset(self.preset).link_bytes_per_s

    def names(self) -> tuple[InstanceId, ...]:
        """Name the instances."""
        return tuple(InstanceId(f"instance-{number}") for number in range(self.instances))


@dataclass(frozen=True, slots=True)
class Outage:
    """An instance that dies at a given time, and is back, empty, after a while (never, if None)."""

    instance_id: InstanceId
    at_s: float
    down_s: float | None = None
