"""Which vLLM this plugin supports, and every private name of it that it touches.

Official extension points (the connector base class, `kv_transfer_params`, plugins) are not listed:
vLLM keeps them stable. What is listed is checked when the server starts; anything missing is
refused by name, never guessed.
"""

import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Any

TESTED = ("0.30", "0.32")
"""Minor versions the whole test suite runs against."""


class IncompatibleVllm(RuntimeError):  # noqa: N818 - what vLLM is, not what we did
    """The plugin cannot move requests on this vLLM, or on this configuration of it."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A private name: where it is, and the words its signature or source must contain."""

    module: str
    name: str
    words: tuple[str, ...] = ()


ENGINE_SIDE = (
    Touched("vllm.v1.request", "Request.append_output_token_ids", ("token_ids",)),
    Touched("vllm.v1.request", "Request.__init__", ("max_tokens", "stop_reason", "prefill_stats")),
    Touched("vllm.v1.request", "Request.__init__", ("num_output_placeholders", "client_index")),
    Touched("vllm.v1.core.kv_cache_manager", "KVCacheManager.get_block_ids"),
    Touched("vllm.v1.core.kv_cache_manager", "KVCacheManager.cache_blocks"),
    Touched(
        "vllm.v1.core.kv_cache_manager", "KVCacheManager.allocate_slots", ("delay_cache_blocks",)
    ),
    Touched("vllm.v1.core.sched.scheduler", "Scheduler.finish_requests", ("finished_status",)),
    Touched("vllm.v1.core.sched.scheduler", "Scheduler._free_request", ("_connector_finished",)),
    Touched(
        "vllm.v1.core.sched.scheduler",
        "Scheduler.update_from_output",
        ("stop_reason=request.stop_reason", "_free_request"),
    ),
    Touched("vllm.v1.core.sched.utils", "check_stop", ("request.max_tokens",)),
    Touched("vllm.v1.engine.core", "EngineCoreProc.__init__", ("output_queue",)),
    Touched("vllm.v1.engine", "EngineCoreOutput", ("new_logprobs", "stop_reason")),
    Touched("vllm.v1.engine", "EngineCoreOutputs", ("outputs",)),
    Touched("vllm.v1.outputs", "LogprobsLists", ("sampled_token_ranks",)),
    Touched("vllm.v1.structured_output", "StructuredOutputManager.accept_tokens", ("request",)),
)
API_SIDE = (
    Touched("vllm.v1.engine.output_processor", "RequestOutputCollector.put", ("self.output.add",)),
    Touched("vllm.v1.engine.output_processor", "RequestOutputCollector.get", ("self.ready",)),
    Touched("vllm.v1.engine.output_processor", "RequestOutputCollector.get_nowait"),
)
RUNNER_V1 = (
    Touched(
        "vllm.v1.worker.gpu_input_batch",
        "CachedRequestState",
        ("output_token_ids", "generator", "__post_init__"),
    ),
)
RUNNER_V2 = (
    Touched("vllm.v1.core.sched.scheduler", "Scheduler.schedule", ("req._all_token_ids",)),
)


def check_version(version: str, *, allow_untested: bool) -> None:
    """Raise IncompatibleVllm unless this is a version the plugin was tested with."""
    found = re.match(r"(\d+\.\d+)\b", version)
    minor = found.group(1) if found else version
    if minor not in TESTED and not allow_untested:
        raise IncompatibleVllm(
            f"vLLM {version} is not one this plugin was tested with ({', '.join(TESTED)}). Install "
            'one of those, or set "allow_untested_vllm": true in kv_connector_extra_config to try.'
        )


def check_names(names: tuple[Touched, ...], version: str) -> None:
    """Raise IncompatibleVllm when a private name is missing or looks different."""
    for each in names:
        missing = _missing(each)
        if missing:
            raise IncompatibleVllm(
                f"vLLM {version} lacks {missing} ({each.module}.{each.name}), which the plugin "
                "relies on to move requests. Use a tested version, or remove --kv-transfer-config."
            )


def _missing(touched: Touched) -> str:
    try:
        target: Any = importlib.import_module(touched.module)
        for part in touched.name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        return str(error)
    if not touched.words:
        return ""
    source = inspect.getsource(target)
    return next((word for word in touched.words if word not in source), "")


def check_configuration(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise IncompatibleVllm for set-ups whose requests cannot be moved correctly yet."""
    parallel = vllm_config.parallel_config
    groups = [] if kv_cache_config is None else kv_cache_config.kv_cache_groups
    wrong = {
        "pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "data parallelism in one server (run one server per replica)": parallel.data_parallel_size
        > 1,
        "context parallelism": parallel.decode_context_parallel_size > 1
        or parallel.prefill_context_parallel_size > 1,
        "speculative decoding": vllm_config.speculative_config is not None,
        "more than one KV cache group (hybrid, Mamba or sliding-window models)": len(groups) > 1,
        "KV caches that do not keep every token (Mamba or sliding-window models)": any(
            not _keeps_all(group.kv_cache_spec) for group in groups
        ),
        'a kv_role other than "kv_both"': vllm_config.kv_transfer_config.kv_role != "kv_both",
    }
    for what, is_so in wrong.items():
        if is_so:
            raise IncompatibleVllm(
                f"the Llumnix plugin does not move requests with {what}; remove it, or remove "
                "--kv-transfer-config (the frontend serves such a server untouched)."
            )


def _keeps_all(spec: Any) -> bool:
    """Whether a cache holds all tokens of a request, by the classes of its specification."""
    kinds = {kind.__name__ for kind in type(spec).__mro__}
    return bool(kinds & {"FullAttentionSpec", "UniformTypeKVCacheSpecs"})
