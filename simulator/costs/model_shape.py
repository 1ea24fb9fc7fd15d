"""The sizes of a transformer that decide what a step computes, from a Hugging Face `config.json`.

Only what the formulas cover is read. A model that computes something else (latent attention, a
sliding window, quantised weights) is refused: a cost that ignored it would look plausible and be
wrong.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# The layers of these are not three matrices around a gate.
PLAIN_FFN = frozenset({"bloom", "falcon", "gpt2", "gpt_neox", "gptj", "opt", "phi", "starcoder2"})


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Layers, widths and counts of heads and experts. A dense model has one expert, always used.

    `shared_inner` is the inner width of experts that every token passes; 0 when there are none.
    """

    layers: int
    hidden: int
    q_heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    max_model_len: int
    dtype_bytes: int = 2
    tied: bool = False
    experts: int = 1
    experts_per_token: int = 1
    shared_inner: int = 0

    @property
    def attention_weights(self) -> int:
        """Weights of the projections of attention, in all layers."""
        heads = 2 * self.q_heads + 2 * self.kv_heads
        return self.layers * self.hidden * heads * self.head_dim

    @property
    def expert_weights(self) -> int:
        """Weights of one expert (a dense model's feed-forward network), in all layers."""
        return 3 * self.layers * self.hidden * self.inner

    @property
    def shared_weights(self) -> int:
        """Weights that every token passes besides its experts, in all layers."""
        return 3 * self.layers * self.hidden * self.shared_inner

    @property
    def head_weights(self) -> int:
        """Weights of the output layer; the embedding has as many."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """All weights in memory, except the few of norms and biases."""
        body = self.attention_weights + self.experts * self.expert_weights + self.shared_weights
        return body + self.head_weights * (1 if self.tied else 2)

    def split(self, tensor_parallel: int) -> "ModelShape":
        """One GPU's part under tensor parallelism; fewer KV heads than GPUs are replicated.

        Raises ValueError when the heads cannot be distributed evenly.
        """
        ways = tensor_parallel
        if ways < 1 or self.q_heads % ways or (self.kv_heads % ways and ways % self.kv_heads):
            raise ValueError(
                f"tensor_parallel {ways} does not divide {self.q_heads} heads of attention and "
                f"{self.kv_heads} of KV evenly"
            )
        return replace(
            self,
            q_heads=self.q_heads // ways,
            kv_heads=max(1, self.kv_heads // ways),
            inner=-(-self.inner // ways),
            vocab=-(-self.vocab // ways),
            shared_inner=-(-self.shared_inner // ways),
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token, in all layers."""
        return 2 * self.layers * self.kv_row_bytes

    @property
    def kv_row_bytes(self) -> int:
        """Keys (or values) of one token, in one layer."""
        return self.kv_heads * self.head_dim * self.dtype_bytes


def read_shape(config: str | Path | Mapping[str, object]) -> ModelShape:
    """Read the path or the contents of a `config.json`.

    Raises ValueError for an unreadable file, a missing field and a model that is not covered.
    """
    if isinstance(config, str | Path):
        config = _read(Path(config))
    inside = config.get("text_config")
    fields = _Fields(inside if isinstance(inside, Mapping) else config)
    fields.refuse_the_uncovered()
    hidden = fields.number("hidden_size")
    heads = fields.number("num_attention_heads")
    inner = fields.number("intermediate_size")
    experts = fields.number("num_local_experts", "num_experts", "n_routed_experts", default=1)
    expert_inner = fields.number("moe_intermediate_size", default=inner)
    shared = fields.number("n_shared_experts", default=0) * expert_inner
    return ModelShape(
        layers=fields.number("num_hidden_layers"),
        hidden=hidden,
        q_heads=heads,
        kv_heads=fields.number("num_key_value_heads", default=heads),
        head_dim=fields.number("head_dim", default=hidden // heads),
        inner=expert_inner if experts > 1 else inner,
        vocab=fields.number("vocab_size"),
        max_model_len=fields.number("max_position_embeddings"),
        dtype_bytes=fields.dtype_bytes(),
        tied=fields.get("tie_word_embeddings") is True,
        experts=experts,
        experts_per_token=fields.number("num_experts_per_tok", default=1) if experts > 1 else 1,
        shared_inner=fields.number("shared_expert_intermediate_size", default=shared),
    )


def _read(path: Path) -> Mapping[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return config


class _Fields:
    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def get(self, name: str) -> object:
        return self._fields.get(name)

    def number(self, *names: str, default: int | None = None) -> int:
        """Read the first of these fields that is present; null counts as absent."""
        value = next((self.get(name) for name in names if self.get(name) is not None), default)
        least = 0 if default == 0 else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            found = "nothing" if value is None else repr(value)
            raise ValueError(
                f"model config, {' or '.join(names)}: expected a positive whole number, "
                f"found {found}"
            )
        return value

    def dtype_bytes(self) -> int:
        name = self.get("dtype") or self.get("torch_dtype") or "bfloat16"
        if name not in DTYPE_BYTES:
            raise ValueError(
                f"model config, dtype: {name!r} is none of {', '.join(sorted(DTYPE_BYTES))}"
            )
        return DTYPE_BYTES[str(name)]

    def refuse_the_uncovered(self) -> None:
        window = self.get("sliding_window") if self.get("use_sliding_window") is not False else None
        why = {
            "kv_lora_rank": "latent attention" if self.get("kv_lora_rank") else "",
            "sliding_window": "a sliding window" if window else "",
            "quantization_config": "quantised weights" if self.get("quantization_config") else "",
            "first_k_dense_replace": "leading dense layers"
            if self.get("first_k_dense_replace")
            else "",
            "model_type": "feed-forward layers without a gate"
            if self.get("model_type") in PLAIN_FFN
            else "",
        }
        for name, what in why.items():
            if what:
                raise ValueError(f"model config, {name}: the roofline does not cover {what}")
