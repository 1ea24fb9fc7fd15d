"""Servers nobody modified: what their metrics page tells, and what is made of what it does not."""

import asyncio

import pytest

from llumnix.instances.instance import InstanceKind, InstanceState
from llumnix.instances.untouched import read_load
from policies.types import InstanceId
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="100",engine="0"} 1.0
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{engine="0"} 4.0
"""


@pytest.mark.parametrize("page", [VLLM, VLLM.replace("vllm:", "vllm_")])
def test_vllm_tells_its_load(page: str) -> None:
    """Both spellings: with the colon, and as some exporters escape it."""
    load = read_load(InstanceId("x"), page, local=9, assumed_capacity_tokens=5, class_index=1)

    assert (load.capacity_tokens, load.physical_tokens) == (1600, 400)
    assert (load.running, load.waiting) == ((0, 3), (0, 2))
    assert load.head_demand_tokens == 133
    assert load.queued_demand_tokens == 266


def test_engines_of_one_server_are_summed() -> None:
    page = VLLM + VLLM.replace('engine="0"', 'engine="1"').replace("0.25", "0.75")
    load = read_load(InstanceId("x"), page, local=0, assumed_capacity_tokens=5, class_index=0)

    assert (load.capacity_tokens, load.physical_tokens) == (3200, 1600)
    assert load.running == (6,)


@pytest.mark.parametrize("page", ["", "nonsense {{{", "other_metric 1.0\n"])
def test_what_a_server_does_not_tell_is_estimated(page: str) -> None:
    """Then our own count of its requests stands in, on an assumed capacity."""
    load = read_load(InstanceId("x"), page, local=4, assumed_capacity_tokens=9000, class_index=0)

    assert load.capacity_tokens == 9000
    assert load.running == (4,)
    assert load.physical_tokens == 2048
    assert load.waiting == (0,)


async def test_an_untouched_server_is_found_polled_and_lost() -> None:
    """No llumlet, no metrics page: still served; stopped, it is down."""
    async with Stage(1, plugged=False) as stage:
        (instance,) = stage.fleet.instances
        assert instance.identity is not None
        assert instance.identity.kind is InstanceKind.UNTOUCHED
        assert instance.model_ids == {"m"}
        stage.stubs[0].scripts.append(Script(3, then="hang"))
        async with stage.post():
            await until(lambda: instance.load is not None and instance.load.running == (0, 1))
        await stage.stubs[0].stop()
        await until(lambda: instance.state is InstanceState.DOWN)


async def test_without_the_secret_a_plugged_server_counts_as_untouched() -> None:
    """It could be given no order and no resume it would accept."""
    async with Stage(1, plugged=True, secret=b"", link=False) as stage:
        (instance,) = stage.fleet.instances
        assert instance.identity is not None
        assert instance.identity.kind is InstanceKind.UNTOUCHED
        assert not instance.plugged
        await asyncio.sleep(0)
