"""Tiny Llamas with random weights: real checkpoints, quickly made, the same every time.

Their output means nothing, but it depends on every earlier token, so that KV that is lost, stale or
in the wrong place changes what follows.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llumnix.testbed.tokenizer import EOS_ID, IM_END_ID, VOCABULARY_SIZE, write_tokenizer

FloatArray = np.ndarray[Any, np.dtype[np.float32]]

_TORCH_NAMES = {"float32": "F32", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class TinyModel:
    """The shape of a model. `seed` decides the weights; `dtype` is float32 or bfloat16."""

    layers: int = 2
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 32
    max_context: int = 16384
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in _TORCH_NAMES:
            raise ValueError(f"dtype must be one of {', '.join(_TORCH_NAMES)}, not {self.dtype}")

    @property
    def kv_bytes_per_token(self) -> int:
        """KV bytes per token."""
        item_bytes = 4 if self.dtype == "float32" else 2
        return 2 * self.layers * self.kv_heads * self.head_size * item_bytes


TINY = TinyModel()
"""For exactness: steps take milliseconds."""
MID = TinyModel(
    layers=8,
    hidden=512,
    intermediate=1408,
    heads=8,
    kv_heads=4,
    head_size=64,
    max_context=32768,
    dtype="bfloat16",
)
"""For timing: 8 KiB of KV per token."""


def write_model(folder: Path, shape: TinyModel = TINY) -> Path:
    """Write a checkpoint and tokenizer for `vllm serve FOLDER`, unless they exist."""
    stamp = folder / "shape.json"
    wanted = json.dumps(asdict(shape), indent=1)
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=1))
    generation = {"eos_token_id": [EOS_ID, IM_END_ID], "pad_token_id": EOS_ID}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))
    write_tensors(folder / "model.safetensors", _weights(shape), shape.dtype)
    stamp.write_text(wanted)
    return folder


def _config(shape: TinyModel) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.max_context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": EOS_ID,
        "torch_dtype": shape.dtype,
    }


def _weights(shape: TinyModel) -> dict[str, FloatArray]:
    """Draw the weights: queries and keys are large, so that attention concentrates."""
    draws = np.random.default_rng(shape.seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> FloatArray:
        values = draws.standard_normal((rows, columns), dtype=np.float32)
        return values * np.float32(gain / math.sqrt(columns))

    hidden, attention = shape.hidden, shape.heads * shape.head_size
    kv_size = shape.kv_heads * shape.head_size
    ones = np.ones(hidden, dtype=np.float32)
    weights = {"model.embed_tokens.weight": matrix(VOCABULARY_SIZE, hidden, math.sqrt(hidden))}
    for number in range(shape.layers):
        prefix = f"model.layers.{number}."
        weights |= {
            f"{prefix}input_layernorm.weight": ones,
            f"{prefix}self_attn.q_proj.weight": matrix(attention, hidden, 1.5),
            f"{prefix}self_attn.k_proj.weight": matrix(kv_size, hidden, 1.5),
            f"{prefix}self_attn.v_proj.weight": matrix(kv_size, hidden, 2.0),
            f"{prefix}self_attn.o_proj.weight": matrix(hidden, attention, 2.0),
            f"{prefix}post_attention_layernorm.weight": ones,
            f"{prefix}mlp.gate_proj.weight": matrix(shape.intermediate, hidden, 1.5),
            f"{prefix}mlp.up_proj.weight": matrix(shape.intermediate, hidden, 1.5),
            f"{prefix}mlp.down_proj.weight": matrix(hidden, shape.intermediate, 1.5),
        }
    weights["model.norm.weight"] = ones
    weights["lm_head.weight"] = matrix(VOCABULARY_SIZE, hidden, 2.0) * _loudness()
    return weights


def _loudness() -> FloatArray:
    """Return how much each token's logits vary: letters most, special tokens not at all.

    The output is mostly text with stray bytes, and never ends or calls a tool unless asked to.
    """
    loudness = np.full((VOCABULARY_SIZE, 1), 0.6, dtype=np.float32)
    loudness[0x20:0x7F] = 1.2
    loudness[256:] = 0.0
    return loudness


def write_tensors(path: Path, weights: dict[str, FloatArray], dtype: str) -> None:
    """Write https://huggingface.co/docs/safetensors: a length, a JSON header, the bytes."""
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    position = 0
    for name, values in weights.items():
        raw = values.tobytes() if dtype == "float32" else _bfloat16(values)
        end = position + len(raw)
        header[name] = {
            "dtype": _TORCH_NAMES[dtype],
            "shape": list(values.shape),
            "data_offsets": [position, end],
        }
        parts.append(raw)
        position = end
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def _bfloat16(values: FloatArray) -> bytes:
    """Round to the upper 16 bits, to nearest even; no value may be infinite."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16).tobytes()
