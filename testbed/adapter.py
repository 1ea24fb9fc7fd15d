"""A tiny LoRA adapter with random weights, in the form that PEFT writes and vLLM loads."""

import json
from pathlib import Path

import numpy as np

from llumnix.testbed.model import TINY, FloatArray, TinyModel, write_tensors

_RANK = 4


def write_adapter(folder: Path, base: Path, shape: TinyModel = TINY, seed: int = 5) -> Path:
    """Write an adapter of the queries of every layer for the model in `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    attention = shape.heads * shape.head_size
    weights: dict[str, FloatArray] = {}
    for number in range(shape.layers):
        prefix = f"base_model.model.model.layers.{number}.self_attn.q_proj."
        down = draws.standard_normal((_RANK, shape.hidden), dtype=np.float32)
        up = draws.standard_normal((attention, _RANK), dtype=np.float32)
        weights |= {f"{prefix}lora_A.weight": down, f"{prefix}lora_B.weight": up}
    write_tensors(folder / "adapter_model.safetensors", weights, shape.dtype)
    (folder / "adapter_config.json").write_text(json.dumps(_config(base), indent=1))
    return folder


def _config(base: Path) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": ["q_proj"],
    }
