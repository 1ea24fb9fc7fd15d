"""Emulated engines without a clock, for tests: stepped by hand, blocks copied by hand."""

import asyncio
import random
from dataclasses import dataclass, field

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.hooks import EmulatorHooks
from llumnix.emulator.instance import EmulatedInstance
from llumnix.emulator.loop import StepLoop
from llumnix.emulator.requests import EmulatedRequest, Sampling
from migration.engine import Gone, RequestState
from policies.types import MigrationId, RequestId
from simulator.engine.batch import EngineRequest


@dataclass
class Listener:
    """Remembers what a llumlet would be told."""

    steps: int = 0
    states: list[RequestState] = field(default_factory=list)
    gone_ones: list[tuple[str, Gone]] = field(default_factory=list)
    somebody_left: asyncio.Event = field(default_factory=asyncio.Event)

    def stepped(self) -> None:
        self.steps += 1

    def detached(self, request_id: RequestId, state: RequestState) -> None:
        assert request_id == state.request_id
        self.states.append(state)

    def gone(self, request_id: RequestId, why: Gone) -> None:
        self.gone_ones.append((str(request_id), why))
        self.somebody_left.set()


class HandStepped:
    """An emulated engine whose steps take no time and happen when asked for."""

    def __init__(self, **changes: object) -> None:
        options: dict[str, object] = {"preset": "toy", "model": "toy", "token_budget": 128}
        self.config = EmulatorConfig(**{**options, **changes})  # type: ignore[arg-type]
        self.instance = EmulatedInstance(self.config)
        self.hooks = EmulatorHooks(self.instance)
        self.listener = Listener()
        self.hooks.set_listener(self.listener)
        self._loop = StepLoop(self.instance, speed=1.0)

    def submit(
        self,
        name: str,
        prompt: list[int],
        sampling: Sampling,
        outputs: tuple[int, ...] = (),
        class_index: int = 0,
    ) -> EmulatedRequest:
        request = self.instance.new_request(RequestId(name), class_index, prompt, outputs, sampling)
        self.instance.submit(request)
        return request

    def step(self) -> bool:
        """Do one step; False when there is nothing to compute."""
        plan = self.instance.engine.plan_step()
        if plan is None:
            return False
        for request in plan.decodes:
            self._hash(request, request.kv_tokens, 1)
        for chunk in plan.prefills:
            self._hash(chunk.request, chunk.start, chunk.tokens)
        self.instance.completed(self.instance.engine.complete_step(plan).finished)
        return True

    def run_out(self) -> None:
        """Step until there is nothing to compute."""
        while self.step():
            pass

    def _hash(self, request: EngineRequest, start: int, tokens: int) -> None:
        # In uneven pieces: how a chunk is cut must not matter.
        for first in range(start, start + tokens, 7):
            self._loop._hash(request, first, min(first + 7, start + tokens))


def detach(source: HandStepped, name: str) -> RequestState:
    """Detach a decoding request at the next step boundary."""
    source.hooks.detach(RequestId(name))
    source.step()
    return source.listener.states[-1]


def copy_blocks(source: HandStepped, destination: HandStepped, state: RequestState) -> MigrationId:
    """Reserve at the destination and copy the bytes of all blocks that hold KV."""
    migration_id = MigrationId(f"m-{state.request_id}")
    blocks = -(-state.kv_tokens // source.instance.sizes.block_tokens)
    assert destination.hooks.reserve(migration_id, blocks)
    data = b"".join(source.hooks.gather(state.request_id, 0, blocks))
    for view in destination.hooks.reserved_views(migration_id, 0, blocks):
        view[:], data = data[: len(view)], data[len(view) :]
    assert not data
    return migration_id


def some_prompt(length: int, seed: int = 0) -> list[int]:
    """Random tokens of the whole vocabulary but its end."""
    chance = random.Random(seed)
    return [chance.randrange(4095) for _ in range(length)]
