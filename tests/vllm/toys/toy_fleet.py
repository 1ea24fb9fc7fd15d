"""Several toy engines with real llumlets, and a frontend that keeps streams whole between them."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from migration.config import MigrationConfig
from migration.layout import Layout
from migration.links.memory import MemoryTransport
from migration.llumlet.agent import LlumletAgent
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from migration.protocol.peer import Peer
from migration.vllm.engine.agent_thread import fitted, listen
from migration.vllm.engine.hooks import VllmHooks
from policies.types import InstanceId, MigrateReason, MigrationId, RequestId
from tests.vllm.toys.toy_engine import BLOCK_TOKENS, SECRET, Stream, ToyEngine
from tests.vllm.toys.toy_model import continuation

LAYOUT = Layout("vllm", "toy", "uint64", BLOCK_TOKENS, BLOCK_TOKENS * 8)
CONFIG = MigrationConfig(
    chunk_bytes=256,
    cooldown_s=0.0,
    reserve_timeout_s=1.0,
    stage_timeout_s=1.0,
    detach_timeout_s=1.0,
    commit_timeout_s=1.0,
    query_timeout_s=0.3,
    claim_timeout_s=0.3,
)


class Instance:
    def __init__(self, name: str, engine: ToyEngine, transport: MemoryTransport) -> None:
        self.name, self.engine = InstanceId(name), engine
        engine.bridge.join(asyncio.get_running_loop())
        config = fitted(CONFIG, LAYOUT, len(engine.slots_out))
        arena: list[object] = [engine.arena]
        self.hooks = VllmHooks(
            engine.side,
            engine.bridge,
            arena,  # type: ignore[arg-type]
            engine.slots_out,
            LAYOUT,
            self.name,
            config.stage_timeout_s,
            config.claim_timeout_s,
        )
        self.agent = LlumletAgent(
            self.hooks, config, SECRET, time.monotonic, name, transport=transport
        )
        transport.inboxes[self.name] = self.agent
        listen(engine.side, engine.bridge, self.hooks, self.agent)

    def order(self, number: int, request_id: RequestId, to: "Instance") -> None:
        peer = Peer(to.name, "nowhere", 1)
        order = MigrateOut(
            MigrationId(f"m{number}"), peer, request_id, 1 << 20, MigrateReason.MANUAL
        )
        self.agent.llumlet.order(order)
        self.agent._pump()


@dataclass(eq=False)
class Leg:
    """One request at one server, on behalf of a client's."""

    where: Instance
    name: str
    stream: Stream
    migration_id: MigrationId | None = None


@dataclass(eq=False)
class Answer:
    """A client's request. `early` is the leg it will move to, if all goes well."""

    request_id: RequestId
    prompt: list[int]
    expected: list[int]
    leg: Leg
    early: Leg | None = None
    ledger: list[int] = field(default_factory=list)
    moves: int = 0
    done: bool = False


class Fleet:
    """Plays the frontend: early claims, redirects, final claims, and recompute as a last resort."""

    def __init__(self, engines: list[ToyEngine], seed: int) -> None:
        self.chance = random.Random(seed)
        self.transport = MemoryTransport()
        self.instances = [
            Instance(f"i{index}", engine, self.transport) for index, engine in enumerate(engines)
        ]
        self.answers: dict[RequestId, Answer] = {}
        self.events: list[MigrationEvent] = []
        self._legs = self._orders = 0
        for instance in self.instances:
            instance.agent._fleet.publish = self.hear  # type: ignore[method-assign]

    # --- the frontend ---

    def ask(self, prompt: list[int], n: int) -> Answer:
        request_id = RequestId(f"r{len(self.answers)}")
        where = self.chance.choice(self.instances)
        leg = self._send(where, request_id, prompt, n, None, None, early=False)
        answer = Answer(request_id, prompt, continuation(prompt, n), leg)
        self.answers[request_id] = answer
        return answer

    def _send(
        self,
        where: Instance,
        request_id: RequestId,
        prompt: list[int],
        n: int,
        ids: list[int] | None,
        migration_id: MigrationId | None,
        *,
        early: bool,
    ) -> Leg:
        self._legs += 1
        name = f"{self.chance.choice(['chat', 'cmpl'])}{self._legs}"
        resume = {"migration_id": migration_id, "output_token_ids": ids, "early": early}
        stream = where.engine.submit(
            name, prompt, n, request_id=request_id, resume=None if ids is None else resume
        )
        return Leg(where, name, stream, migration_id)

    def hear(self, event: MigrationEvent) -> None:
        self.events.append(event)
        answer = self.answers.get(RequestId(event.request_id))
        if answer is None or answer.done:
            return
        if event.kind == "started" and self.chance.random() < 0.9:
            where = next(each for each in self.instances if each.name == event.destination)
            self._drop_early(answer)
            answer.early = self._send(
                where,
                answer.request_id,
                answer.prompt,
                len(answer.expected),
                list(answer.ledger),
                MigrationId(event.migration_id),
                early=True,
            )
        elif event.kind in ("aborted", "refused") and not event.redirected:
            early = answer.early
            if early is not None and early.migration_id == event.migration_id:
                self._drop_early(answer)

    def _drop_early(self, answer: Answer) -> None:
        if answer.early is not None:
            answer.early.where.engine.abort(answer.early.name)
            answer.early = None

    def watch(self, answer: Answer) -> None:
        """Read what has come of one answer, and follow it where it goes."""
        stream = answer.leg.stream
        assert stream.token_ids == answer.expected[: len(stream.token_ids)], answer.request_id
        if len(stream.token_ids) > len(answer.ledger):
            answer.ledger = list(stream.token_ids)
        if not stream.over:
            return
        stop = str(stream.stop_reason or "")
        if not stop.startswith("migrate:"):
            assert (stream.finish_reason, stop) == ("length", ""), stream
            assert stream.token_ids == answer.expected, answer.request_id
            answer.done = True
            self._drop_early(answer)
            return
        self._follow(answer, stop.removeprefix("migrate:"))

    def _follow(self, answer: Answer, migration: str) -> None:
        answer.moves += 1
        early = answer.early
        if early is not None and early.migration_id == migration and not early.stream.over:
            answer.leg, answer.early = early, None
            return
        self._drop_early(answer)
        where, migration_id = self.chance.choice(self.instances), None
        started = [event for event in self.events if event.migration_id == migration]
        if started:
            migration_id = MigrationId(migration)
            where = next(each for each in self.instances if each.name == started[0].destination)
        n = len(answer.expected)
        answer.leg = self._send(
            where, answer.request_id, answer.prompt, n, answer.ledger, migration_id, early=False
        )

    def order(self) -> None:
        """Move something somewhere."""
        open_answers = [each for each in self.answers.values() if not each.done]
        if open_answers:
            answer = self.chance.choice(open_answers)
            others = [each for each in self.instances if each is not answer.leg.where]
            self._orders += 1
            answer.leg.where.order(self._orders, answer.request_id, self.chance.choice(others))

    # --- turns ---

    async def turn(self) -> None:
        for instance in self.instances:
            if not instance.engine.idle:
                instance.engine.step()
            for _ in range(4):  # what the agents do in the time of a step
                await asyncio.sleep(0)
        for answer in list(self.answers.values()):
            if not answer.done:
                self.watch(answer)

    async def rest(self, patience_s: float = 30.0) -> None:
        """Go on until all is answered and let go of."""
        async with asyncio.timeout(patience_s):
            while not all(answer.done for answer in self.answers.values()) or self._busy():
                await self.turn()
        for instance in self.instances:
            instance.engine.bridge.read()
            instance.engine.check_rest()

    def _busy(self) -> bool:
        return any(
            not each.engine.idle
            or each.engine.side.shelf.active()
            or each.engine.side.slots_taken()
            or any(each.agent.stats()["active"].values())
            for each in self.instances
        )

    async def close(self) -> None:
        for instance in self.instances:
            await instance.agent.close()
