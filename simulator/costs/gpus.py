"""The peak performance of GPUs, from their maker's data sheets.

NVIDIA's own PDFs could not be opened: each source names the document, and the copies or third-party
tables ("seen in") that the figures were compared with. Tensor-core figures are dense: data sheets
often print twice that, "with sparsity".

Data sheets count memory in gibibytes, and call them GB. `memory_bytes` is the amount CUDA reports,
since vLLM takes its share of that. Of GDDR6, error correction takes a sixteenth: the rest (22.18
GiB of an A10, OpenBMB/MiniCPM-V#640) is within 1 % of as many gigabytes, which are used here.
"""

from dataclasses import dataclass

MB = 10**6
GB = 10**9
TERA = 10**12


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: dense bf16 FLOP/s, memory speed and size, and its link to others in its machine.

    `link_bytes_per_s` counts one direction; data sheets print the sum of both.
    """

    name: str
    source: str
    bf16_flops: int
    memory_bytes_per_s: int
    memory_bytes: int
    link_bytes_per_s: int


_GPUS = (
    Gpu(
        name="A10",
        source="NVIDIA A10 data sheet: 125 TFLOPS bf16, 600 GB/s, 24 GB, PCIe 4.0 x16; seen in "
        "mosaicml/composer's speed_monitor.py and astroC86/gpu-datasheet; that PCIe 4.0 x16 has "
        "64 GB/s, in L40S's",
        bf16_flops=125 * TERA,
        memory_bytes_per_s=600 * GB,
        memory_bytes=24 * GB,
        link_bytes_per_s=32 * GB,
    ),
    Gpu(
        name="A100-40",
        source="NVIDIA A100 data sheet, 40 GB SXM: 312 TFLOPS bf16, 1,555 GB/s, NVLink 600 GB/s; "
        "seen in cli99/llm-analysis's a100-sxm-40gb.json and Paderborn's PC2 documentation, where "
        "CUDA finds 42,405,855,232 bytes",
        bf16_flops=312 * TERA,
        memory_bytes_per_s=1_555 * GB,
        memory_bytes=42_400 * MB,
        link_bytes_per_s=300 * GB,
    ),
    Gpu(
        name="A100-80",
        source="NVIDIA A100 data sheet, 80 GB SXM: 312 TFLOPS bf16, 2,039 GB/s, NVLink 600 GB/s; "
        "seen in cli99/llm-analysis's a100-sxm-80gb.json and hahnyuan/LLM-Viewer; CUDA finds 79.25 "
        "GiB (levihsu/OOTDiffusion#235)",
        bf16_flops=312 * TERA,
        memory_bytes_per_s=2_039 * GB,
        memory_bytes=85_100 * MB,
        link_bytes_per_s=300 * GB,
    ),
    Gpu(
        name="L40S",
        source="NVIDIA L40S data sheet: 362.05 TFLOPS bf16 (733 with sparsity), 864 GB/s, 48 GB, "
        "PCIe 4.0 x16 64 GB/s; seen in a shop's copy (mullet.se) and AIConfigurator's l40s.yaml",
        bf16_flops=362_050 * GB,
        memory_bytes_per_s=864 * GB,
        memory_bytes=48 * GB,
        link_bytes_per_s=32 * GB,
    ),
    Gpu(
        name="H100",
        source="NVIDIA H100 data sheet, SXM5: 1,979 TFLOPS bf16 with sparsity, so 989.5 dense; "
        "3.35 TB/s, 80 GB, NVLink 900 GB/s; seen in mosaicml/composer's speed_monitor.py, BLIS's "
        "hardware_config.json and AIConfigurator's h100_sxm.yaml; CUDA finds 79.11 GiB "
        "(vllm-project/vllm#27508)",
        bf16_flops=989_500 * GB,
        memory_bytes_per_s=3_350 * GB,
        memory_bytes=84_900 * MB,
        link_bytes_per_s=450 * GB,
    ),
    Gpu(
        name="H200",
        source="NVIDIA H200 data sheet, SXM: 1,979 TFLOPS bf16 with sparsity, so 989.5 dense; "
        "4.8 TB/s, 141 GB, NVLink 900 GB/s; seen in mosaicml/composer's speed_monitor.py, "
        "AIConfigurator's h200_sxm.yaml and NVIDIA's system description for MLPerf Inference 4.1; "
        "CUDA finds 139.80 GiB (error messages of PyTorch on H200s)",
        bf16_flops=989_500 * GB,
        memory_bytes_per_s=4_800 * GB,
        memory_bytes=150_100 * MB,
        link_bytes_per_s=450 * GB,
    ),
    Gpu(
        name="B200",
        source="NVIDIA DGX B200, an eighth of it: 36 PFLOPS bf16 with sparsity (data sheet, seen "
        "in astroC86/gpu-datasheet), so 2,250 TFLOPS dense; 1,440 GB, NVLink 14.4 TB/s (user "
        "guide, seen itself); NVIDIA Blackwell data sheet, HGX B200: 7.7 TB/s, seen in "
        "AIConfigurator's b200_sxm.yaml, and by bus and clock in pytorch/ao#4002 (the DGX's data "
        "sheet rounds it to 64 TB/s for eight), where CUDA finds 178.35 GiB",
        bf16_flops=2_250 * TERA,
        memory_bytes_per_s=7_700 * GB,
        memory_bytes=191_500 * MB,
        link_bytes_per_s=900 * GB,
    ),
)

GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in _GPUS}


def gpu_named(name: str) -> Gpu:
    """Look up a GPU; raises ValueError naming the choices for an unknown name."""
    try:
        return GPUS[name]
    except KeyError:
        raise ValueError(f"unknown GPU {name!r}; choose one of {', '.join(GPUS)}") from None
