"""The presets: step costs and sizes of a model on a GPU, by name, and where they come from."""

from pathlib import Path

from simulator.costs.files import SUFFIX, read_preset
from simulator.costs.model import CostModel, LinearCosts, Preset
from simulator.costs.roofline import preset_for

__all__ = ["PRESETS", "CostModel", "LinearCosts", "Preset", "preset", "preset_for"]

_PRESETS = (
    Preset(
        name="llama-7b-a10",
        source="Llumnix (OSDI'24) artifact figures, decoded: prefill from the recompute curve of "
        "fig. 10 (58/110/220/436/940/1995 ms at 256..8k tokens), decode from its six points at 8k "
        "tokens in all (52.0..43.3 ms at batch 32..1). The split of the decode step between its "
        "constant and its context term is a guess from memory bandwidth, not measured. fp16 KV, "
        "64 Gb/s network.",
        costs=LinearCosts(
            prefill_base_ns=5_000_000,
            prefill_per_token_ns=205_000,
            prefill_quadratic_ps=4_600,
            decode_base_ns=34_000_000,
            decode_per_context_ns=1_100,
            decode_per_sequence_ns=280_000,
        ),
        capacity_tokens=13_616,
        block_tokens=16,
        max_model_len=13_616,
        kv_bytes_per_token=524_288,
        link_bytes_per_s=8_000_000_000,
    ),
    Preset(
        name="toy",
        source="Invented: small and fast, for tests.",
        costs=LinearCosts(
            prefill_base_ns=500_000,
            prefill_per_token_ns=10_000,
            prefill_quadratic_ps=100,
            decode_base_ns=1_000_000,
            decode_per_context_ns=100,
            decode_per_sequence_ns=10_000,
        ),
        capacity_tokens=2_048,
        block_tokens=16,
        max_model_len=1_024,
        kv_bytes_per_token=64,
        link_bytes_per_s=1_000_000_000,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}


def preset(name: str) -> Preset:
    """Look up a preset, or read one from the file if the name ends in .json (see `costs.files`).

    Raises ValueError naming the choices for an unknown name, or what is missing in the file.
    """
    if name.endswith(SUFFIX):
        return read_preset(Path(name))
    try:
        return PRESETS[name]
    except KeyError:
        choices = ", ".join(sorted(PRESETS))
        raise ValueError(
            f"unknown cost preset {name!r}; choose one of {choices}, or give a {SUFFIX} file"
        ) from None
