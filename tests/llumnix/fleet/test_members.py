"""Members that join and leave: nothing new for those that leave, and nothing lost."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from llumnix.errors import ConfigError
from llumnix.fleet import view
from llumnix.instances.config import InstanceSpec
from llumnix.instances.instance import InstanceState
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import TOKENS, Script


def names(stage: Stage) -> list[str]:
    return [each.id for each in stage.fleet.instances]


def urls(stage: Stage, wanted: str) -> list[str]:
    return [stub.url for stub in stage.stubs if stub.name in wanted]


def forgets_after(stage: Stage, timeout_s: float) -> None:
    config = replace(stage.fleet.config, leave_timeout_s=timeout_s)
    stage.fleet.members._config = config


async def test_members_that_stay_listed_are_not_touched() -> None:
    """Not even their links, whatever else comes and goes."""
    async with Stage(3) as stage:
        kept = [(stage.instance(name), stage.instance(name).link) for name in "ac"]
        await stage.fleet.set_members(urls(stage, "ac"))
        await until(lambda: names(stage) == ["a", "c"])
        await stage.fleet.set_members(urls(stage, "abc"))
        await until(lambda: len(stage.fleet.instances.up()) == 3)

        assert [(stage.instance(name), stage.instance(name).link) for name in "ac"] == kept
        assert stage.stubs[0].drained == stage.stubs[2].drained == []


async def test_one_that_leaves_finishes_what_it_has_and_gets_nothing_new() -> None:
    async with Stage(2) as stage:
        going = asyncio.Event()
        script = Script(TOKENS)

        async def pause() -> None:
            await going.wait()

        script.pause = pause
        stage.stubs[0].scripts.append(script)
        streaming = asyncio.create_task(stage.stream())
        await until(lambda: stage.stubs[0].heard)
        await stage.fleet.set_members(urls(stage, "b"))

        assert stage.instance("a").state is InstanceState.DRAINING
        for _ in range(4):
            await stage.stream()
        assert len(stage.stubs[0].heard) == 1
        await asyncio.sleep(0.5)  # longer than an empty one would stay
        assert names(stage) == ["a", "b"]
        going.set()
        assert (await streaming).endswith(b"data: [DONE]\n\n")
        await until(lambda: names(stage) == ["b"])
        # It may serve others after us: it is left as it was found.
        await until(stage.links["a"].gone.is_set)
        assert stage.stubs[0].drained == [True, False]


async def test_one_that_cannot_be_emptied_in_time_is_forgotten_with_its_stream() -> None:
    """The stream still flows to its end."""
    async with Stage(2) as stage:
        going = asyncio.Event()
        script = Script(TOKENS)

        async def pause() -> None:
            await going.wait()

        script.pause = pause
        stage.stubs[0].scripts.append(script)
        streaming = asyncio.create_task(stage.stream())
        await until(lambda: stage.stubs[0].heard)
        forgets_after(stage, 0.2)
        await stage.fleet.set_members(urls(stage, "b"))
        await until(lambda: names(stage) == ["b"])
        going.set()
        assert (await streaming).endswith(b"data: [DONE]\n\n")


async def test_one_that_is_wanted_again_while_it_leaves_stays() -> None:
    async with Stage(2) as stage:
        stage.stubs[0].scripts.append(Script(3, then="hang"))
        async with stage.post():
            await until(lambda: stage.stubs[0].heard)
            before = stage.instance("a")
            await stage.fleet.set_members(urls(stage, "b"))
            await until(lambda: stage.stubs[0].drained == [True])
            await stage.fleet.set_members(urls(stage, "ab"))

            assert stage.instance("a") is before
            assert before.state is InstanceState.UP
            assert stage.stubs[0].drained == [True, False]
        await asyncio.sleep(0.5)
        assert names(stage) == ["a", "b"]


async def test_one_that_is_removed_at_once_may_then_be_stopped() -> None:
    """What it streams is carried on elsewhere: the client notices nothing."""
    async with Stage(2) as stage:
        whole = await stage.stream()
        stage.stubs[1].scripts.append(Script(3, then="hang"))
        streaming = asyncio.create_task(stage.stream())
        await until(lambda: stage.stubs[1].heard)
        await until(lambda: any(each.tokens() for each in stage.fleet.requests.active.values()))
        await stage.fleet.members.remove(stage.instance("b"), now=True)
        assert names(stage) == ["a"]
        await stage.stubs[1].stop()
        assert len(await streaming) == len(whole)


async def test_one_that_has_left_leaves_no_series_and_is_in_the_events() -> None:
    async with Stage(2) as stage:
        await stage.stream()
        await stage.fleet.set_members(urls(stage, "b"))
        events = stage.fleet.events
        await until(lambda: events.after(0)[-1].text == "a is removed")
        view.set_gauges(stage.fleet, [0, 0], 1)
        page = generate_latest(stage.metrics.registry).decode()
        assert 'instance_id="b"' in page
        assert 'instance_id="a"' not in page


async def test_one_that_is_down_leaves_at_once() -> None:
    async with Stage(2) as stage:
        await stage.stubs[1].stop()
        stage.links["b"].give_up("gone")
        await until(lambda: stage.instance("b").state is InstanceState.DOWN)
        await stage.fleet.set_members(urls(stage, "a"))
        events = stage.fleet.events
        await until(lambda: events.after(0)[-1].kind == "instance_removed")
        assert names(stage) == ["a"]
        assert events.after(0)[-2].kind == "instance_leaving"


async def test_a_list_with_a_mistake_changes_nothing() -> None:
    async with Stage(2) as stage:
        broken = InstanceSpec("http://gpu1", api_key_file="/nowhere/key")
        with pytest.raises(ConfigError, match="/nowhere/key"):
            await stage.fleet.set_members([urls(stage, "a")[0], broken])
        assert names(stage) == ["a", "b"]
        assert len(stage.fleet.instances.up()) == 2


async def test_instances_are_added_and_removed_by_hand() -> None:
    """Through the admin API; the one removed stays out though the configuration lists it."""
    async with Stage(2) as stage:
        async with stage.session.delete("/llumnix/instances/b", json={}) as response:
            assert response.status == 200
            assert (await response.json())["state"] == "draining"
        await until(lambda: names(stage) == ["a"])
        await stage.fleet.set_members(urls(stage, "ab"))
        assert names(stage) == ["a"]
        url = stage.stubs[1].url + "/v1/"
        async with stage.session.post("/llumnix/instances", json={"url": url}) as response:
            assert response.status == 200
            assert (await response.json())["url"] == stage.stubs[1].url
        await until(lambda: len(stage.fleet.instances.up()) == 2)
        async with stage.session.delete("/llumnix/instances/a?now", json={}) as response:
            assert (await response.json())["state"] == "removed"
        assert names(stage) == ["b"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"url": "gpu1:8000"}, "http://gpu1:8000"),
        ({"url": "http://me:pw@gpu1"}, "--instance-api-key-file"),
        ({"url": "dns://gpus:8000"}, "only the configuration"),
        ({"url": 5}, "must be str"),
        ({"urls": []}, "unknown field"),
        ({}, "http://gpu1:8000"),
    ],
)
async def test_what_cannot_be_added_is_said(body: object, said: str) -> None:
    async with Stage(1) as stage:
        async with stage.session.post("/llumnix/instances", json=body) as response:
            text = await response.text()
            assert response.status == 400
            assert said in text
            assert "pw" not in text
        async with stage.session.delete("/llumnix/instances/nobody", json={}) as response:
            assert response.status == 404
        assert names(stage) == ["a"]


async def test_a_reload_takes_instances_and_keys_and_a_broken_one_takes_nothing(
    tmp_path: Path,
) -> None:
    async with Stage(2) as stage:
        key = tmp_path / "key"
        key.write_text("k")
        listed = tuple(InstanceSpec(url) for url in urls(stage, "ab"))
        config = replace(stage.fleet.config, instances=listed, instance_api_key_file=str(key))
        kept = list(stage.fleet.instances)
        await stage.fleet.reload(config)
        assert list(stage.fleet.instances) == kept
        assert {each.endpoint.key.text for each in kept} == {"k"}

        broken = replace(config, instances=listed[:1], instance_api_key_file="/nowhere")
        with pytest.raises(ConfigError):
            await stage.fleet.reload(broken)
        await stage.fleet.set_members(config.instances)
        assert list(stage.fleet.instances) == kept
        assert {each.endpoint.key.text for each in kept} == {"k"}
