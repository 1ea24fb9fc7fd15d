"""Configuration of an emulated engine."""

from dataclasses import dataclass, field

from policies.types import PriorityClass
from simulator.costs.presets import PRESETS, Preset, preset


@dataclass(frozen=True, slots=True)
class EmulatorConfig:
    """One emulated engine. Unset fields take the preset's value."""

    instance_id: str = field(
        default="emulated-0", metadata={"help": "name of the instance in its fleet", "unit": ""}
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "address to listen on", "unit": "", "metavar": "HOST"},
    )
    port: int = field(
        default=0, metadata={"help": "HTTP port; 0 picks a free one", "unit": "", "metavar": "PORT"}
    )
    control_port: int = field(
        default=0,
        metadata={"help": "port of the llumlet; 0 picks a free one", "unit": "", "metavar": "PORT"},
    )
    model: str = field(
        default="llama-7b", metadata={"help": "name of the model served", "unit": ""}
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
    speed: float = field(
        default=1.0,
        metadata={
            "help": "emulated seconds per wall-clock second",
            "unit": "",
            "metavar": "FACTOR",
        },
    )
    kv_payload_bytes_per_token: int = field(
        default=64,
        metadata={
            "help": "bytes of KV that are really stored per token, a multiple of 8",
            "unit": "B",
        },
    )
    kv_pretouch: bool = field(
        default=False,
        metadata={
            "help": "allocate the whole KV cache at start, as a real engine does",
            "unit": "",
        },
    )
    capacity_tokens: int | None = field(
        default=None,
        metadata={"help": "KV cache size", "unit": "tokens", "default": "the preset's"},
    )
    block_tokens: int | None = field(
        default=None,
        metadata={"help": "size of a KV block", "unit": "tokens", "default": "the preset's"},
    )
    max_model_len: int | None = field(
        default=None,
        metadata={
            "help": "longest prompt and output together",
            "unit": "tokens",
            "default": "the preset's",
        },
    )
    max_num_seqs: int = field(
        default=128, metadata={"help": "largest number of running requests", "unit": "requests"}
    )
    token_budget: int = field(
        default=512,
        metadata={"help": "largest number of tokens computed per step", "unit": "tokens"},
    )
    max_waiting: int = field(
        default=4096,
        metadata={
            "help": "largest number of queued requests; one more gets a 503",
            "unit": "requests",
        },
    )
    max_body_bytes: int = field(
        default=32 << 20, metadata={"help": "largest request body", "unit": "B"}
    )
    classes: tuple[PriorityClass, ...] = field(
        default=(PriorityClass("high"), PriorityClass("normal")),
        metadata={"help": "priority classes, most urgent first", "unit": ""},
    )
    default_class: str = field(
        default="normal", metadata={"help": "class of requests that do not name one", "unit": ""}
    )
    claim_timeout_s: float = field(
        default=5.0,
        metadata={
            "help": "how long a migrated request waits to be claimed before it is freed",
            "unit": "wall s",
            "metavar": "S",
        },
    )
    link_bytes_per_s: int | None = field(
        default=None,
        metadata={
            "help": "emulated speed of the migration link; 0 for no limit",
            "unit": "B/s",
            "default": "the preset's",
        },
    )
    link_bytes_per_token: int | None = field(
        default=None,
        metadata={
            "help": "KV bytes per token charged to the emulated link",
            "unit": "B",
            "default": "the preset's",
        },
    )

    def __post_init__(self) -> None:
        known = preset(self.preset)
        if self.speed <= 0:
            raise ValueError(f"speed must be positive, not {self.speed}")
        if self.default_class not in self.class_names:
            raise ValueError(
                f"default_class {self.default_class!r} is not among the classes: "
                f"{', '.join(self.class_names)}"
            )
        sizes = self.sizes()
        if sizes.max_model_len > sizes.capacity_tokens:
            raise ValueError(
                f"max_model_len {sizes.max_model_len} is above the capacity of "
                f"{sizes.capacity_tokens} tokens (preset {known.name})"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, most urgent first."""
        return tuple(one.name for one in self.classes)

    def sizes(self) -> "Sizes":
        """Return the sizes, with the preset's in place of those that are unset."""
        known = preset(self.preset)
        block_tokens = _or(self.block_tokens, known.block_tokens)
        blocks = _or(self.capacity_tokens, known.capacity_tokens) // block_tokens
        return Sizes(
            preset=known,
            total_blocks=blocks,
            block_tokens=block_tokens,
            capacity_tokens=blocks * block_tokens,
            max_model_len=_or(self.max_model_len, min(known.max_model_len, blocks * block_tokens)),
            link_bytes_per_s=_or(self.link_bytes_per_s, known.link_bytes_per_s),
            link_bytes_per_token=_or(self.link_bytes_per_token, known.kv_bytes_per_token),
        )


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of an emulated engine, all of them set."""

    preset: Preset
    total_blocks: int
    block_tokens: int
    capacity_tokens: int
    max_model_len: int
    link_bytes_per_s: int
    link_bytes_per_token: int


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
