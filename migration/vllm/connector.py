"""The KV connector that `--kv-transfer-config` names: vLLM's hooks, handed to the two sides.

Hooks and their order: vllm/distributed/kv_transfer/kv_connector/v1/base.py. vLLM makes one object
in the engine's process (role SCHEDULER) and one in each worker (role WORKER).
"""

# ruff: noqa: ARG002, ARG003 (the signatures are vLLM's)

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics

from migration.layout import Layout
from migration.vllm import collector, compat
from migration.vllm.announce import show
from migration.vllm.arena import Arena, Slots
from migration.vllm.engine.agent_thread import AgentThread
from migration.vllm.engine.bridge import Bridge
from migration.vllm.engine.core import EngineCore
from migration.vllm.engine.engine_side import EngineSide
from migration.vllm.settings import read_secret, read_settings
from migration.vllm.step_orders import RankInfo, StepOrders
from migration.vllm.worker.worker_side import WorkerSide

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

log = logging.getLogger(__name__)

collector.patch()  # in the API server: this import is all that happens there


class LlumnixConnector(KVConnectorBase_V1, SupportsHMA):
    """Moves running requests between vLLM servers. One object plays one of the two roles."""

    def __init__(
        self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig"
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer: Any = vllm_config.kv_transfer_config
        self._settings = read_settings(transfer.kv_connector_extra_config)
        version = vllm.__version__
        compat.check_version(version, allow_untested=self._settings.allow_untested_vllm)
        compat.check_configuration(vllm_config, kv_cache_config)
        self._engine_id = str(transfer.engine_id)
        self._runner = "v2" if getattr(vllm_config, "use_v2_model_runner", False) else "v1"
        self._engine: EngineSide | None = None
        self._agent: AgentThread | None = None
        self._worker: WorkerSide | None = None
        self._forward = self._due = False
        if role is KVConnectorRole.SCHEDULER:
            compat.check_names(compat.ENGINE_SIDE, version)
            self._secret = read_secret(self._settings)
            self._core = EngineCore.around()
            self._bridge = Bridge()
        else:
            names = compat.RUNNER_V1 if self._runner == "v1" else compat.RUNNER_V2
            compat.check_names(names, version)
            self._worker = self._make_worker(vllm_config)

    def _make_worker(self, vllm_config: "VllmConfig") -> WorkerSide:
        from vllm.distributed.parallel_state import get_tp_group

        if self._runner == "v1":
            from migration.vllm.worker import runner_v1

            runner_v1.patch(vllm_config.model_config.get_vocab_size())
        rank = get_tp_group().rank_in_group
        return WorkerSide(self._settings, self._engine_id, rank, self._runner)

    # --- both ---

    @property
    def requires_kv_delivery(self) -> bool:
        """A failed migration loses nothing: the request continues where it is."""
        return False

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: "VllmConfig",
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KVConnectorPromMetrics | None:
        """Show the llumlet on this API server's `/metrics` page; vLLM records nothing for us."""
        transfer: Any = vllm_config.kv_transfer_config
        show(str(transfer.engine_id))
        return None

    def shutdown(self) -> None:
        """Release what outlives the process."""
        if self._worker is not None:
            self._worker.close()
        if self._agent is not None:
            self._agent.stop()

    # --- worker ---

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """See KVConnectorBase_V1."""
        assert self._worker is not None
        self._worker.register_caches(kv_caches, self._kv_cache_config.num_blocks)

    def get_handshake_metadata(self) -> RankInfo | None:
        """See KVConnectorBase_V1."""
        assert self._worker is not None
        return self._worker.info()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Note whether this step computes anything; the copies come after that."""
        self._forward = getattr(forward_context, "attn_metadata", None) is not None
        self._due = True

    def has_connector_metadata(self) -> bool:
        """Keep vLLM from calling the next two around each layer; nothing else depends on it."""
        return False

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is loaded layer by layer."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing is saved layer by layer."""

    def wait_for_save(self) -> None:
        """See KVConnectorBase_V1; runs after the forward pass, if there is one."""
        self._copy()

    def _copy(self) -> None:
        """Do this step's copies, once; up to 0.31 only `get_finished` runs in every step."""
        if not self._due:
            return
        self._due = False
        assert self._worker is not None
        orders = self._get_connector_metadata()
        assert isinstance(orders, StepOrders)
        self._worker.work(orders, forward=self._forward)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """See KVConnectorBase_V1."""
        self._copy()
        assert self._worker is not None
        return None, self._worker.received()

    def build_connector_worker_meta(self) -> Any:
        """See KVConnectorBase_V1."""
        assert self._worker is not None
        return self._worker.results()

    # --- scheduler ---

    def set_xfer_handshake_metadata(self, metadata: dict[int, Any]) -> None:
        """Start the llumlet: the workers have registered their caches (v1/engine/core.py)."""
        self._start([info for info in metadata.values() if isinstance(info, RankInfo)])

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], Any]) -> None:
        """See `set_xfer_handshake_metadata`; vLLM's keys are (pipeline rank, tensor rank)."""
        self._start([info for info in metadata.values() if isinstance(info, RankInfo)])

    def _start(self, infos: list[RankInfo]) -> None:
        ranks = sorted(infos, key=lambda info: info.tp_rank)
        arenas = [Arena.open(Path(info.arena_path)) for info in ranks]
        slots = min(info.slots for info in ranks)
        out = Slots(range(slots // 2))
        self._engine = EngineSide(
            self._core,
            self._bridge,
            self._settings,
            self._secret,
            len(ranks),
            out,
            Slots(range(slots // 2, slots)),
        )
        core = self._core
        self._agent = AgentThread(
            self._engine,
            self._bridge,
            arenas,
            out,
            self._layout(ranks),
            self._settings,
            self._secret,
            self._engine_id,
            core.total_blocks * core.block_tokens,
        )
        port = self._agent.start()
        log.info("event=llumlet_up control_port=%d layout=%s", port, self._layout(ranks))

    def _layout(self, ranks: list[RankInfo]) -> Layout:
        model = self._vllm_config.model_config
        config = json.loads(model.hf_config.to_json_string(use_diff=False))
        config.pop("_name_or_path", None)  # its address on this host
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
        return Layout(
            engine="vllm",
            model=f"{model.served_model_name}:{digest}",
            dtype=str(model.dtype),
            block_tokens=self._core.block_tokens,
            block_bytes=sum(info.block_bytes for info in ranks),
            tp_size=len(ranks),
            attention_backend="|".join(info.cache_signature for info in ranks),
        )

    def on_new_request(self, request: "Request") -> None:
        """See KVConnectorBase_V1."""
        assert self._engine is not None
        self._engine.new_request(request)

    def get_num_new_matched_tokens(
        self, request: "Request", num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """See KVConnectorBase_V1."""
        assert self._engine is not None
        return self._engine.matched(request, num_computed_tokens)

    def update_state_after_alloc(
        self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int
    ) -> None:
        """See KVConnectorBase_V1."""
        assert self._engine is not None
        self._engine.allocated(request, num_external_tokens)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        """See KVConnectorBase_V1."""
        if self._engine is None:
            return StepOrders()
        return self._engine.plan(scheduler_output)

    def update_connector_output(self, connector_output: "KVConnectorOutput") -> None:
        """See KVConnectorBase_V1."""
        if self._engine is not None:
            self._engine.results(connector_output)

    def request_finished(
        self, request: "Request", block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See KVConnectorBase_V1; blocks are never kept: all their copies are done."""
        if self._engine is not None:
            self._engine.finished(request)
        return False, None

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See SupportsHMA."""
        return self.request_finished(request, [])

    def has_pending_push_work(self) -> bool:
        """See KVConnectorBase_V1."""
        return self._engine is not None and self._engine.must_step
