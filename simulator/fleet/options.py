"""Configuration of a simulated fleet: the `simulator` section."""

from dataclasses import dataclass, field

from migration.layout import Layout
from policies.scaling import ScalingConfig
from policies.types import InstanceId
from simulator.costs.presets import PRESETS, preset
from simulator.engine.roster import EngineLimits
from simulator.engine.speculation import Guesses, Speculation
from simulator.fleet.instance import InstanceShape

KERNELS = ("auto", "steps", "plain", "compiled")


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """A fleet of equal instances in virtual time. Unset fields take the preset's value.

    Raises ValueError for an unknown preset or a value out of range.
    """

    instances: int = field(
        default=16, metadata={"help": "number of instances", "unit": "instances", "metavar": "N"}
    )
    preset: str = field(
        default="llama-7b-a10",
        metadata={
            "help": f"cost model: {', '.join(sorted(PRESETS))}, or a .json file that `llumnix "
            "calibrate` wrote",
            "unit": "",
            "metavar": "PRESET",
        },
    )
    capacity_tokens: int | None = field(
        default=None,
        metadata={
            "help": "KV cache size per instance",
            "unit": "tokens",
            "default": "the preset's",
        },
    )
    block_tokens: int | None = field(
        default=None,
        metadata={"help": "size of a KV block", "unit": "tokens", "default": "the preset's"},
    )
    max_num_seqs: int | None = field(
        default=None,
        metadata={
            "help": "largest number of running requests per instance",
            "unit": "requests",
            "default": "the preset's",
        },
    )
    token_budget: int | None = field(
        default=None,
        metadata={
            "help": "largest number of tokens computed per step",
            "unit": "tokens",
            "default": "the preset's",
        },
    )
    schedules_ahead: bool | None = field(
        default=None,
        metadata={
            "help": "plan each step while the previous one runs, as vLLM's async scheduling does; "
            "a request that arrives meanwhile joins the step after next",
            "unit": "",
            "default": "the preset's",
        },
    )
    prefix_caching: bool = field(
        default=False,
        metadata={
            "help": "share KV among prompts with a common prefix, if the trace says which have one",
            "unit": "",
        },
    )
    draft_tokens: int = field(
        default=0,
        metadata={"help": "draft tokens per decode step (speculative decoding)", "unit": "tokens"},
    )
    acceptance: float | None = field(
        default=None,
        metadata={
            "help": "probability that a draft token is accepted; needed with draft_tokens",
            "unit": "",
            "metavar": "SHARE",
        },
    )
    draft_us: int = field(
        default=0,
        metadata={"help": "time to draft one token for a whole batch", "unit": "us"},
    )
    kernel: str = field(
        default="auto",
        metadata={
            "help": "how to compute the simulation, with equal results: step by step (steps), "
            "fast-forwarding identical steps in Python (plain), the same compiled by numba "
            "(compiled), or the fastest that fits (auto)",
            "unit": "",
            "choices": KERNELS,
        },
    )
    link_bytes_per_s: int | None = field(
        default=None,
        metadata={
            "help": "speed of an instance's network port, shared by its migrations",
            "unit": "B/s",
            "default": "the preset's",
        },
    )
    message_latency_us: int = field(
        default=300,
        metadata={"help": "one-way latency of a message between llumlets", "unit": "us"},
    )
    copy_slowdown: float = field(
        default=0.01,
        metadata={
            "help": "share by which a step slows down while KV is copied to or from its instance",
            "unit": "",
            "metavar": "SHARE",
        },
    )
    report_interval_s: float = field(
        default=0.1, metadata={"help": "interval between load reports of an instance", "unit": "s"}
    )
    queue_limit: int = field(
        default=100_000,
        metadata={
            "help": "largest number of queued requests; one more is rejected",
            "unit": "requests",
        },
    )
    scaling: ScalingConfig = field(
        default=ScalingConfig(),
        metadata={"help": "when to add and remove instances; simulations only"},
    )
    start_delay_s: float = field(
        default=60.0,
        metadata={
            "help": "time to start an instance: provisioning, loading weights, warm-up",
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
        """Return the shape of every instance, for this number of priority classes.

        Raises ValueError for options that do not fit together. `seed` decides which draft tokens
        are accepted.
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
        """Return how instances speculate; raises ValueError if only a part of it is given."""
        if not self.draft_tokens:
            if self.acceptance is not None or self.draft_us:
                raise ValueError("acceptance and draft_us have no effect without draft_tokens")
            return None
        if self.acceptance is None:
            raise ValueError(
                "draft_tokens needs acceptance: the probability that a draft token is accepted"
            )
        return Speculation(self.draft_tokens, self.acceptance, self.draft_us * 1000)

    def bytes_per_s(self) -> int:
        """Return the speed of an instance's network port."""
        return self.link_bytes_per_s or preset(self.preset).link_bytes_per_s

    def names(self) -> tuple[InstanceId, ...]:
        """Return the names of the instances."""
        return tuple(InstanceId(f"instance-{number}") for number in range(self.instances))


@dataclass(frozen=True, slots=True)
class Outage:
    """An instance that dies at a given time and returns, empty, after a while (never if None)."""

    instance_id: InstanceId
    at_s: float
    down_s: float | None = None
