"""The metrics of an emulated engine: vLLM's gauges, and its own statistics."""

import os

from llumnix.emulator.instance import EmulatedInstance
from llumnix.emulator.lag import LagMeter
from policies.types import InstanceId


def metrics_text(instance: EmulatedInstance) -> str:
    """Return the Prometheus text that a vLLM server would, as far as routers read it."""
    engine = instance.engine
    load = engine.load(InstanceId(instance.config.instance_id))
    blocks = engine.blocks
    label = f'model_name="{instance.config.model}"'
    used = 1 - blocks.free_blocks / blocks.total_blocks
    lines: list[str] = []

    def metric(name: str, kind: str, text: str, labels: str, value: float) -> None:
        lines.extend(
            (f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}")
        )

    metric("vllm:num_requests_running", "gauge", "Requests in the batch.", label, sum(load.running))
    metric("vllm:num_requests_waiting", "gauge", "Requests queued.", label, sum(load.waiting))
    metric(
        "vllm:kv_cache_usage_perc", "gauge", "Share of KV blocks in use; 1 means all.", label, used
    )
    info = f'block_size="{blocks.block_tokens}",num_gpu_blocks="{blocks.total_blocks}"'
    metric("vllm:cache_config_info", "gauge", "Size of the KV cache.", info, 1)
    metric(
        "vllm:num_preemptions_total", "counter", "Requests preempted.", label, engine.preemptions
    )
    return "\n".join(lines) + "\n"


def stats(instance: EmulatedInstance, lag: LagMeter, speed: float) -> dict[str, object]:
    """Return the engine's statistics: lag in wall seconds, decode steps in emulated ms."""
    engine = instance.engine
    load = engine.load(InstanceId(instance.config.instance_id))
    emulated_ms = speed * 1000
    return {
        "pid": os.getpid(),
        "lag": {
            "steps": lag.steps,
            "late_steps": lag.late_steps,
            "p99_s": lag.p99_s,
            "max_s": lag.max_s,
        },
        "preemptions": engine.preemptions,
        "blocks": {
            "total": engine.blocks.total_blocks,
            "free": engine.blocks.free_blocks,
            "allocated": engine.blocks.allocated_blocks,
            "reserved": engine.blocks.reserved_blocks,
        },
        "decode_step_ms": {
            "p50": lag.p50_decode_step_s * emulated_ms,
            "mean": lag.mean_decode_step_s * emulated_ms,
        },
        "running": sum(load.running),
        "waiting": sum(load.waiting),
    }
