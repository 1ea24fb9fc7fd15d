"""The fleet that `scheduler_scale.py` measures is a real one: full, it holds what comes."""

import pytest
from scheduler_parts import answers, decisions, full
from scheduler_parts.engines import BATCH, CAPACITY_TOKENS
from scheduler_parts.fleet import build


def test_engines_report_what_they_run_and_links_take_it_in() -> None:
    world = build(3, batch=5, mean_tokens=100)
    engine = world.engines[0]
    first = engine.running[0]
    for _ in range(250):
        ended = engine.go_on(1.0)
        engine.link.take(engine.report())
        if ended:
            break
    load = world.fleet.instances.alive()[0].load

    assert ended == [first]
    assert load is not None
    assert sum(load.running) == 4
    assert load.physical_tokens == engine.tokens <= CAPACITY_TOKENS


def test_a_full_fleet_holds_what_comes_and_places_it_as_requests_end() -> None:
    told = full.measure(4, 10, seconds=1.5, warm_up_s=0.5)

    assert told.held >= 8
    assert told.reports_per_s > 0
    assert told.dispatches_per_s > 0


def test_decisions_are_measured_with_orders_given_and_ended() -> None:
    told = decisions.measure(20, 20, 5)

    assert told.orders > 0
    assert told.dispatch.p50_us > 0


@pytest.mark.parametrize("instances", [3])
def test_all_long_answers_are_written(instances: int) -> None:
    told = answers.answers(instances, BATCH)

    assert set(told) >= {"/metrics", "/llumnix/fleet", "/llumnix/requests", "/llumnix/explain"}
    assert all(each.size_bytes > 0 for each in told.values())
