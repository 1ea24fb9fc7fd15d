"""A host for engine tests: it knows how many tokens each request is to produce."""

from dataclasses import dataclass, field

from policies.types import RequestId
from simulator.costs.presets import preset
from simulator.engine.batch import EngineRequest, StepPlan, StepResult
from simulator.engine.engine import Engine, EngineLimits


@dataclass
class Host:
    """Ends each request at its length, and remembers what it was told."""

    lengths: dict[RequestId, int] = field(default_factory=dict)
    preemptions: list[EngineRequest] = field(default_factory=list)
    detachments: list[EngineRequest] = field(default_factory=list)

    def produced(self, request: EngineRequest) -> bool:
        return request.output_tokens >= self.lengths[request.request_id]

    def preempted(self, request: EngineRequest) -> None:
        self.preemptions.append(request)

    def detached(self, request: EngineRequest) -> None:
        self.detachments.append(request)


def make_engine(
    blocks: int = 20,
    block_tokens: int = 8,
    max_num_seqs: int = 6,
    token_budget: int = 16,
    classes: int = 2,
) -> tuple[Engine, Host]:
    host = Host()
    limits = EngineLimits(blocks * block_tokens, block_tokens, max_num_seqs, token_budget, classes)
    return Engine(limits, preset("toy").costs, host), host


def add(
    engine: Engine,
    host: Host,
    name: str,
    prompt: int = 10,
    length: int = 5,
    class_index: int = 0,
    outputs: int = 0,
) -> EngineRequest:
    request_id = RequestId(name)
    host.lengths[request_id] = length
    return engine.add(request_id, class_index, prompt, outputs)


def step(engine: Engine) -> tuple[StepPlan, StepResult]:
    plan = engine.plan_step()
    assert plan is not None
    return plan, engine.complete_step(plan)


def run_out(engine: Engine, most_steps: int = 5_000) -> list[StepPlan]:
    """Step until there is nothing to do."""
    plans = []
    while (plan := engine.plan_step()) is not None:
        plans.append(plan)
        engine.complete_step(plan)
        assert len(plans) < most_steps, "the engine makes no progress"
    return plans


def names(requests: list[EngineRequest] | tuple[EngineRequest, ...]) -> list[str]:
    return [str(request.request_id) for request in requests]


def check_blocks(engine: Engine) -> None:
    """INV-3: each block has one owner, and owners hold all that is not free."""
    requests = engine.requests()
    owned = [block for request in requests for block in request.blocks]
    assert len(set(owned)) == len(owned)
    assert len(owned) == engine.blocks.allocated_blocks
    total = engine.blocks.allocated_blocks + engine.blocks.reserved_blocks
    assert total + engine.blocks.free_blocks == engine.blocks.total_blocks
    for request in requests:
        assert len(request.blocks) >= engine.blocks.blocks_for(request.kv_tokens)
