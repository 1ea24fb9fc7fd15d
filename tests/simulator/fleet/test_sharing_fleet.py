"""A fleet that shares prefixes and speculates, with classes, migrations and an outage in play."""

import dataclasses

import pytest

from policies.types import InstanceId
from simulator.fleet.options import Outage
from simulator.streams import stream
from simulator.workload.request import PromptBlocks, TraceRequest
from tests.simulator.simulated import SMALL, make_fleet, workload

BLOCK = 16
EVERYTHING = dataclasses.replace(SMALL, prefix_caching=True, draft_tokens=2, acceptance=0.6)


def families(count: int, rate: float, seed: int) -> list[TraceRequest]:
    """Requests of five families, whose prompts have their first blocks in common; two classes."""
    draws = stream(seed, "tests/families")
    requests = []
    for request in workload(count, rate, seed):
        family, known = int(draws.integers(5)), int(draws.integers(1, 12))
        own = [1_000 + 100 * request.index + number for number in range(20)]
        ids = [100 * family + number for number in range(known)] + own
        requests.append(
            dataclasses.replace(
                request,
                class_name="high" if draws.random() < 0.2 else "normal",
                prompt_blocks=PromptBlocks.of(BLOCK, ids),
            )
        )
    return requests


@pytest.mark.parametrize("seed", range(4))
def test_all_is_served_and_no_block_is_lost(seed: int) -> None:
    """Each gets its tokens; in the end every block is free; the same again gives the same."""
    requests = families(250, rate=220, seed=seed)
    outages = [Outage(InstanceId("instance-1"), at_s=0.6, down_s=0.5)]
    told = []
    for _ in range(2):
        fleet = make_fleet(EVERYTHING, outages=outages)
        lives = fleet.run(requests)
        assert [life.tokens for life in lives] == [one.output_tokens for one in requests]
        for instance in fleet.wiring.instances.values():
            assert not instance.engine.requests()
            assert instance.engine.blocks.free_blocks == instance.engine.blocks.total_blocks
        told.append([(life.first_token_ns, life.last_token_ns) for life in lives])
    assert told[0] == told[1]
    assert sum(life.restarts for life in lives) > 0
    assert sum(life.cached_tokens for life in lives) > 0
    assert all(life.cached_tokens < life.request.prompt_tokens for life in lives)


def test_moves_and_preemptions_are_among_them() -> None:
    """The tests above would say little of a fleet in which nothing happens."""
    runs = [make_fleet(EVERYTHING).run(families(250, rate=220, seed=seed)) for seed in range(4)]
    assert sum(len(life.moves) for lives in runs for life in lives) > 0
    assert sum(life.preemptions for lives in runs for life in lives) > 0


def test_sharing_saves_work() -> None:
    """Short answers to prompts that begin alike keep a fleet less busy with a cache."""
    requests = [
        dataclasses.replace(request, output_tokens=2) for request in families(250, 220, seed=0)
    ]
    busy_ns = []
    for caching in (True, False):
        fleet = make_fleet(dataclasses.replace(EVERYTHING, prefix_caching=caching))
        fleet.run(requests)
        busy_ns.append(sum(one.busy_ns for one in fleet.wiring.instances.values()))
    assert busy_ns[0] < 0.9 * busy_ns[1]
