"""Servers nobody modified: what their metrics page tells, and what is made of what it does not."""

import asyncio
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.instances.instance import InstanceKind, InstanceState
from llumnix.instances.untouched import Uptime, read_load
from policies.types import InstanceId
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script
from tests.llumnix.instances.raw_server import raw_server
from tests.llumnix.instances.test_trouble import fleet_of

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


@pytest.mark.parametrize("odd", ["NaN", "-0.39", "+Inf", "-Inf", "1e300", "x", "0x1", ""])
def test_a_number_that_cannot_be_is_not_told(odd: str) -> None:
    """The other gauges still count, whatever one of them says."""
    for name in ("kv_cache_usage_perc", "num_requests_running", "num_requests_waiting"):
        page = re.sub(rf"(vllm:{name}{{.*}}) .*", rf"\1 {odd}", VLLM)
        load = read_load(InstanceId("x"), page, local=7, assumed_capacity_tokens=5, class_index=0)
        assert load.capacity_tokens == 1600
        assert load.running == ((7,) if name == "num_requests_running" else (3,))
        assert load.waiting == ((0,) if name == "num_requests_waiting" else (2,))
        assert 0 <= load.physical_tokens <= 1600


@given(
    st.lists(
        st.builds(
            "{}{}{} {}".format,
            st.sampled_from(["vllm:", "vllm_", ""]),
            st.sampled_from(
                ["num_requests_running", "kv_cache_usage_perc", "cache_config_info", "x"]
            ),
            st.sampled_from(
                ['{block_size="nan",num_gpu_blocks="9"}', '{block_size="1e99"}', "{", '{a="}', ""]
            ),
            st.one_of(st.floats().map(repr), st.text(max_size=8)),
        )
    )
)
def test_no_page_breaks_the_reader(lines: list[str]) -> None:
    page = "\n".join(lines)
    load = read_load(InstanceId("x"), page, local=1, assumed_capacity_tokens=50, class_index=0)
    figures = (load.capacity_tokens, load.physical_tokens, load.queued_demand_tokens)
    assert all(0 <= each < 2**62 for each in (*figures, *load.running, *load.waiting))
    assert load.physical_tokens <= load.capacity_tokens


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


STARTED = "process_start_time_seconds {}\n"


@pytest.mark.parametrize(
    ("starts", "restarts"),
    [
        ([900.0, 900.0], 0),
        ([900.0, 1000.5, 1000.5], 1),
        # A clock that is ahead of ours.
        ([5000.0, 5000.0], 0),
        # Two servers behind a load balancer.
        ([900.0, 950.0, 900.0, 950.0], 0),
        ([900.0, "NaN", "1.7e300", -1.0], 0),
        # The page of a server that is met before it tells.
        (["x", 1000.5], 0),
    ],
)
def test_a_process_that_replaced_another_is_noticed(starts: list[object], restarts: int) -> None:
    uptime = Uptime(1000.0)
    assert sum(uptime.restarted(STARTED.format(each)) for each in starts) == restarts
    # A worker that was replaced is not the server.
    both = STARTED.format(900.0) + STARTED.format(2000.0)
    assert not uptime.restarted(both)


async def test_a_server_that_restarts_between_two_polls_is_met_anew() -> None:
    """Nothing was refused meanwhile; it serves another model now."""
    started = STARTED.format(time.time() - 60)
    async with (
        raw_server(metrics=started) as server,
        fleet_of(server.url, models_interval_s=60) as fleet,
    ):
        (instance,) = fleet.instances
        await until(lambda: instance.alive)
        server.models[:] = ["new"]
        server.metrics = STARTED.format(time.time() + 0.01)
        await until(lambda: instance.alive and instance.model_ids == {"new"})
        assert sum(event.kind == "instance_down" for event in fleet.events.after(0)) == 1
