"""Whole migrations between toy engines: real schedulers, real llumlets, checked KV."""

from collections import Counter

import pytest

from tests.vllm.toys.toy_engine import ToyEngine
from tests.vllm.toys.toy_fleet import Answer, Fleet


def fleet(seed: int, n_blocks: int = 40, n: int = 3, slots: int = 16) -> Fleet:
    engines = [
        ToyEngine(n_blocks, pipelined=(seed + index) % 2 == 0, caching=seed % 3 > 0, slots=slots)
        for index in range(n)
    ]
    return Fleet(engines, seed)


def outcomes(fleet: Fleet) -> Counter[str]:
    return Counter(event.kind for event in fleet.events)


async def test_one_request_hops_to_and_fro() -> None:
    world = Fleet([ToyEngine(slots=64, copy_share=1.0) for _ in range(2)], seed=0)
    answer: Answer = world.ask(list(range(10)), 100)
    while len(answer.ledger) < 5:
        await world.turn()
    for hop in range(3):
        here = answer.leg.where
        (there,) = [each for each in world.instances if each is not here]
        here.order(hop, answer.request_id, there)
        while answer.moves == hop:
            assert not answer.done, world.events
            await world.turn()
        for _ in range(5):
            await world.turn()
    await world.rest()
    await world.close()

    assert outcomes(world) == {"started": 3, "committed": 3}, [e.reason for e in world.events]
    assert answer.moves == 3
    assert sum(each.engine.runner.computed for each in world.instances) == 109


@pytest.mark.parametrize(
    ("seed", "n_blocks", "slots"),
    [
        (seed, *size)
        for seed, size in enumerate([(60, 16), (60, 16), (20, 16), (20, 8), (40, 4)] * 2)
    ],
)
async def test_many_requests_are_moved_at_random(seed: int, n_blocks: int, slots: int) -> None:
    """Roomy, short of KV memory (so that requests are preempted), and short of staging memory."""
    world = fleet(seed, n_blocks, slots=slots)
    chance = world.chance
    for turn in range(400):
        if turn % 12 == 0 and len(world.answers) < 24:
            start = chance.randint(0, 9)
            prompt = list(range(start, start + chance.randint(5, 24)))
            world.ask(prompt, chance.randint(5, 45))
        if turn % 5 == 0:
            world.order()
        if turn % 40 == 39:
            instance = chance.choice(world.instances)
            instance.agent.llumlet.drain(not instance.agent.llumlet.host.draining)
        await world.turn()
    for instance in world.instances:
        instance.agent.llumlet.drain(False)
    await world.rest()
    await world.close()

    assert outcomes(world)["committed"] > 0, Counter(e.reason for e in world.events)
