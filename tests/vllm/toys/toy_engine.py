"""A whole engine in one thread: vLLM's own scheduler, our connector, a toy model."""

import itertools
import json
import queue
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from migration.links.auth import sign_resume
from migration.vllm.arena import Slots
from migration.vllm.connector import LlumnixConnector
from migration.vllm.engine.bridge import Bridge
from migration.vllm.engine.core import EngineCore
from migration.vllm.engine.engine_side import EngineSide
from migration.vllm.settings import PluginSettings
from migration.vllm.tags import RESUME, TAG
from migration.vllm.worker.worker_side import WorkerSide
from tests.vllm.toys.toy_model import ToyArena, ToyCopier, ToyRunner

SECRET = b"a secret"
BLOCK_TOKENS = 4
MAX_LENGTH = 128
HOLD_S = 5.0
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "torch_dtype": "float32",
}


@cache
def model_config() -> ModelConfig:
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return ModelConfig(
        model=str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=MAX_LENGTH
    )


@cache
def vllm_config(budget: int, caching: bool, seats: int) -> VllmConfig:
    init_none_hash(sha256)
    return VllmConfig(
        model_config=model_config(),
        scheduler_config=SchedulerConfig(
            max_num_seqs=seats,
            max_num_batched_tokens=budget,
            max_model_len=MAX_LENGTH,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
        cache_config=CacheConfig(block_size=BLOCK_TOKENS, enable_prefix_caching=caching),
    )


def make_scheduler(config: VllmConfig, n_blocks: int, pipelined: bool) -> Scheduler:
    spec = FullAttentionSpec(
        block_size=BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    config.cache_config.num_gpu_blocks = n_blocks
    make = AsyncScheduler if pipelined else Scheduler
    scheduler = make(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=n_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_TOKENS,
    )
    scheduler.defer_block_free = pipelined
    return scheduler


@dataclass
class Stream:
    """What an API server would hear of one request."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: Any = None
    aborted: bool = False

    @property
    def over(self) -> bool:
        return self.aborted or self.finish_reason is not None


class ToyEngine:
    """`pipelined` schedules a step before the one before has been looked at."""

    def __init__(
        self,
        n_blocks: int = 40,
        *,
        pipelined: bool = False,
        caching: bool = True,
        budget: int = 24,
        seats: int = 8,
        slots: int = 16,
        copy_share: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = make_scheduler(vllm_config(budget, caching, seats), n_blocks, pipelined)
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        proc = SimpleNamespace(
            output_queue=self.outbox, input_queue=queue.SimpleQueue(), engine_index=0
        )
        self.core = EngineCore(self.scheduler, proc)
        self.bridge = Bridge()
        self.slots_out = Slots(range(slots // 2))
        self.slots_in = Slots(range(slots // 2, slots))
        settings = PluginSettings(hold_s=HOLD_S, copy_share=copy_share)
        self.side = EngineSide(
            self.core, self.bridge, settings, SECRET, 1, self.slots_out, self.slots_in, clock
        )
        self.memory = np.zeros((n_blocks, BLOCK_TOKENS), dtype=np.uint64)
        self.arena = ToyArena(slots, BLOCK_TOKENS * 8)
        self.runner = ToyRunner(self.memory)
        self.connector = self._connect(settings)
        self.scheduler.connector = self.connector
        self.streams: dict[str, Stream] = {}
        self.received: Counter[str] = Counter()
        self._pipelined = pipelined
        self._in_flight: deque[tuple[SchedulerOutput, ModelRunnerOutput]] = deque()
        self._arrivals = itertools.count()

    def _connect(self, settings: PluginSettings) -> LlumnixConnector:
        """Make the connector as vLLM would, but both roles in one and without its thread."""
        worker = WorkerSide(settings, "toy", 0, "v1")
        worker._copier = cast("Any", ToyCopier(self.memory, self.arena))
        connector: Any = object.__new__(LlumnixConnector)
        connector._engine, connector._worker, connector._agent = self.side, worker, None
        connector._forward = connector._due = False
        connector._connector_metadata = None
        connector._kv_cache_config = self.scheduler.kv_cache_config
        return cast("LlumnixConnector", connector)

    # --- requests ---

    def submit(
        self,
        name: str,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        request_id: str | None = None,
        owner: str = "",
        resume: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Stream:
        """Send a request as the frontend would; `resume`: its field, signed here if not yet."""
        params: dict[str, Any] = {}
        if request_id is not None:
            params[TAG] = {"request_id": request_id, "class_index": 0, "owner": owner}
        if resume is not None:
            whole = {"request_id": request_id, "issued_at": time.time(), "early": False, **resume}
            params[RESUME] = sign_resume(SECRET, whole) if "signature" not in resume else resume
        sampling = SamplingParams(
            max_tokens=max_tokens,
            temperature=0,
            ignore_eos=True,
            extra_args={"kv_transfer_params": params} if params else None,
            **extra,
        )
        request = Request(
            name,
            list(prompt),
            sampling,
            None,
            arrival_time=float(next(self._arrivals)),
            block_hasher=get_request_block_hasher(BLOCK_TOKENS, sha256),
        )
        stream = self.streams[name] = Stream()
        self.scheduler.add_request(request)
        self._deliver()
        return stream

    def abort(self, name: str) -> None:
        """Go away as a client does: from now on nothing of the request is read."""
        self._deliver()
        if not self.streams[name].over:
            self.streams[name].aborted = True
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def request(self, name: str) -> Request | None:
        return self.scheduler.requests.get(name)

    # --- steps ---

    @property
    def idle(self) -> bool:
        return not self._in_flight and not self.scheduler.has_requests()

    def step(self, between: Callable[[], None] = lambda: None) -> None:
        """Take one turn of vLLM's loop; `between` runs while the model computes."""
        self.bridge.ring()  # nobody lingers here
        if self.scheduler.has_requests():
            planned = self.scheduler.schedule()
            self._in_flight.append((planned, self._execute(planned)))
            full = len(self._in_flight) > 1 or not self._pipelined
            if not full and (planned.total_num_scheduled_tokens or self.scheduler.has_requests()):
                return
        elif not self._in_flight:
            return
        between()
        planned, made = self._in_flight.popleft()
        assert made.kv_connector_output is not None
        self.received.update(made.kv_connector_output.finished_recving or ())
        for index, batch in self.scheduler.update_from_output(planned, made).items():
            self.outbox.put_nowait((index, batch))
        self._deliver()
        assert not self.runner.wrong, self.runner.wrong

    def _execute(self, planned: SchedulerOutput) -> ModelRunnerOutput:
        made = self.runner.run(planned)
        forward = SimpleNamespace(attn_metadata=planned.total_num_scheduled_tokens or None)
        self.connector.bind_connector_metadata(planned.kv_connector_metadata)
        self.connector.start_load_kv(forward)
        if planned.total_num_scheduled_tokens:  # vLLM 0.30 calls it only then
            self.connector.wait_for_save()
        output = made.kv_connector_output
        assert output is not None
        _, output.finished_recving = self.connector.get_finished(planned.finished_req_ids)
        output.kv_connector_worker_meta = self.connector.build_connector_worker_meta()
        self.connector.clear_connector_metadata()
        return made

    def _deliver(self) -> None:
        while not self.outbox.empty():
            _, batch = self.outbox.get_nowait()
            for output in batch.outputs:
                self._hear(output)

    def _hear(self, output: Any) -> None:
        stream = self.streams[output.request_id]
        if stream.over:
            assert stream.aborted or not output.new_token_ids, "tokens after the end"
            return
        stream.token_ids += output.new_token_ids
        if output.finish_reason is not None:
            stream.finish_reason = str(output.finish_reason)
            stream.stop_reason = output.stop_reason

    # --- at rest ---

    def check_rest(self) -> None:
        """Hold nothing when nothing is there."""
        pool = self.scheduler.kv_cache_manager.block_pool
        assert self.idle
        assert not self.scheduler.requests
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
        assert self.slots_in.free == len(self.slots_in), "staging slots in"
        assert self.slots_out.free == len(self.slots_out), "staging slots out"
        assert self.side.shelf.active() == 0, "records"
        assert not self.side.incoming
        assert not self.side.outgoing
        assert not self.side._copies.pending
        assert self.side.register.all() == []
        assert all(count == 1 for count in self.received.values()), self.received
