"""The admin API, and the paths around the completions."""

import asyncio
import socket

import pytest

from llumnix.instances.instance import InstanceState
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script


async def get(stage: Stage, path: str, status: int = 200) -> object:
    async with stage.session.get(path) as response:
        assert response.status == status, await response.text()
        parsed: object = await response.json()
        return parsed


async def post(stage: Stage, path: str, body: object, status: int = 200) -> dict[str, object]:
    async with stage.session.post(path, json=body) as response:
        assert response.status == status, await response.text()
        parsed: dict[str, object] = await response.json()
        return parsed


async def test_the_fleet_is_described() -> None:
    async with Stage(2) as stage:
        await stage.stream()
        stage.report("a", physical_tokens=40, running=(0, 2), prefill_backlog_tokens=70)
        told = await get(stage, "/llumnix/fleet")
        assert isinstance(told, dict)

        assert told["policy"] == "round-robin"
        assert told["classes"] == ["high", "normal"]
        assert told["queue"] == {"length": 0, "limit": 10_000}
        first = told["instances"][0]
        assert first["id"] == "a"
        assert (first["state"], first["kind"]) == ("up", "llumnix")
        assert (first["capacity_tokens"], first["physical_tokens"]) == (1000, 40)
        assert first["prefill_backlog_tokens"] == 70
        assert first["running"] == 2
        assert first["freeness"] == 480.0
        assert told["totals"]["requests"] == told["totals"]["finished"] == 1
        assert told["totals"]["downtime_ms"] == []


async def test_events_can_be_followed() -> None:
    async with Stage(2) as stage:
        told = await get(stage, "/llumnix/events")
        assert isinstance(told, dict)
        assert [event["kind"] for event in told["events"]] == ["instance_up"] * 2
        stage.fleet.events.add(1.5, "test", "something", answer=42)
        news = await get(stage, f"/llumnix/events?after={told['next']}")
        assert isinstance(news, dict)

        assert news["events"] == [
            {
                "seq": told["next"] + 1,
                "at_s": 1.5,
                "kind": "test",
                "text": "something",
                "answer": 42,
            }
        ]
        await get(stage, "/llumnix/events?after=x", status=400)


async def test_requests_are_listed_while_they_run_and_explained_afterwards() -> None:
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(3, then="hang"))
        async with stage.post(X_Request_Id="mine", X_Llumnix_Class="high"):
            await until(lambda: [r.tokens() for r in stage.fleet.requests.active.values()] == [3])
            listed = await get(stage, "/llumnix/requests")
            assert isinstance(listed, list)
            (told,) = listed
            assert told["request_id"] == "mine"
            assert (told["class"], told["state"], told["tokens"]) == ("high", "running", 3)
            assert told["instance_id"] == "a"
        await until(lambda: not stage.fleet.requests.active)
        why = await get(stage, "/llumnix/explain/mine")
        assert isinstance(why, dict)

        assert why["decisions"][0]["kind"] == "dispatch"
        assert why["decisions"][0]["instance_id"] == "a"
        await get(stage, "/llumnix/explain/other", status=404)


async def test_a_migration_is_ordered_by_hand() -> None:
    """The order names source, request and destination, and ends with the llumlet's word."""
    async with Stage(3) as stage:
        stage.stubs[0].scripts.append(Script(3, then="hang"))
        async with stage.post(X_Request_Id="mine"):
            await until(lambda: stage.fleet.requests.active)
            await until(lambda: stage.fleet.requests.active["mine"].instance_id)  # type: ignore[index]
            stage.report("b", physical_tokens=900, running=(0, 1))
            told = await post(stage, "/llumnix/migrate", {"request_id": "mine"})
        (order,) = stage.stubs[0].orders

        assert order.migration_id == told["migration_id"]
        assert (order.request_id, order.destination.id) == ("mine", "c")
        stage.started(order.migration_id, "mine", "a", "c")
        stage.ended(order.migration_id, "committed", "mine", "a", "c", copied_bytes=7)
        assert stage.metric("migrations_total", reason="manual", result="committed") == 1
        assert stage.metric("migration_copied_bytes_total") == 7
        assert not list(stage.fleet.mover.book)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"sauce": "a"}, 400),
        ({"source": 7}, 400),
        ([], 400),
        ({"request_id": "nobody"}, 404),
        ({"source": "nowhere"}, 404),
        ({"source": "a", "destination": "nowhere"}, 404),
        ({"source": "a", "destination": "a"}, 409),
    ],
)
async def test_impossible_migrations_are_refused(body: object, status: int) -> None:
    async with Stage(2) as stage:
        told = await post(stage, "/llumnix/migrate", body, status)

        assert set(told["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
        assert not stage.stubs[0].orders


async def test_a_drained_instance_gets_nothing_until_it_is_back() -> None:
    async with Stage(2) as stage:
        a, b = stage.stubs
        told = await post(stage, "/llumnix/drain", {"instance_id": "a"})
        assert told["state"] == "draining"
        assert a.drained == [True]
        stage.report("a")
        for _ in range(3):
            await stage.stream()
        assert (len(a.heard), len(b.heard)) == (0, 3)

        await post(stage, "/llumnix/drain", {"instance_id": "a", "on": False})
        assert stage.instance("a").state is InstanceState.UP
        for _ in range(2):
            await stage.stream()
        assert len(a.heard) == 1
        await post(stage, "/llumnix/drain", {"instance_id": "x"}, 404)


async def test_metrics_are_served() -> None:
    async with Stage(1) as stage:
        stage.report("a", physical_tokens=40, prefill_backlog_tokens=70)
        async with stage.session.get("/metrics") as response:
            page = await response.text()

        assert 'llumnix_instance_kv_tokens{instance_id="a",kind="physical"} 40.0' in page
        assert 'llumnix_instance_prefill_backlog_tokens{instance_id="a"} 70.0' in page
        assert 'llumnix_instance_up{instance_id="a"} 1.0' in page


async def instance_series(stage: Stage, instance_id: str) -> set[str]:
    """Name the series of an instance that a scrape shows."""
    async with stage.session.get("/metrics") as response:
        page = await response.text()
    lines = [line for line in page.splitlines() if f'instance_id="{instance_id}"' in line]
    return {line.partition("{")[0].removeprefix("llumnix_") for line in lines}


async def test_the_metrics_of_an_instance_that_is_down_tell_no_old_load() -> None:
    """That it is down must stay visible; what it last reported is no longer so."""
    async with Stage(2) as stage:
        stage.report("a", physical_tokens=40, running=(0, 3))
        await stage.stream()
        before = await instance_series(stage, "a")
        assert {"instance_freeness", "instance_running", "snapshot_age_seconds"} <= before
        await stage.stubs[0].stop()
        stage.links["a"].give_up("unplugged")
        await until(lambda: stage.instance("a").state is InstanceState.DOWN)

        after = await instance_series(stage, "a")
        assert after == {"dispatch_total", "dispatch_created", "instance_up", "instance_not_up"}
        assert stage.metric("instance_up", instance_id="a") == 0
        assert await instance_series(stage, "b") == before - {"dispatch_total", "dispatch_created"}


async def test_a_server_that_comes_back_by_another_name_leaves_no_series_behind() -> None:
    """Its old name is no instance of the fleet any more, and would be down for ever."""
    async with Stage(1) as stage:
        await stage.stream()
        assert "instance_up" in await instance_series(stage, "a")
        stage.stubs[0].name = "z"
        stage.links["a"].give_up("restarted")
        await until(lambda: "z" in stage.links and stage.instance("z").alive)

        assert await instance_series(stage, "a") == set()
        assert "instance_up" in await instance_series(stage, "z")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_other_paths_pass_through(method: str) -> None:
    """Any method, path, query, header and body: as they are, both ways."""
    async with Stage(1) as stage:
        data = None if method == "GET" else b"x" * 100_000
        path = "/v1/echo/a%2Fb?q=%20c"
        async with stage.session.request(
            method, stage.url + path, data=data, headers={"X-Custom": "1"}
        ) as response:
            assert response.status == 207
            assert response.headers["X-Method"] == method
            assert response.headers["X-Custom-Back"] == "1"
            assert response.headers["X-Path"].startswith("/v1/echo/")
            assert response.headers["X-Path"].endswith("?q=%20c")
            assert await response.read() == (data or b"")


async def test_our_own_namespace_is_not_passed_through() -> None:
    """An instance's own /llumnix endpoints are no business of clients."""
    async with Stage(1) as stage:
        await get(stage, "/llumnix/instance", status=404)
        await get(stage, "/llumnix/stats", status=404)


async def test_sockets_do_not_delay() -> None:
    """TCP_NODELAY is on towards clients and instances: Nagle would hold tokens back by 40 ms."""
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(3, then="hang"))
        seen: list[int] = []
        async with stage.post():
            await until(lambda: stage.fleet.tally.streams_open)
            for transport in transports():
                sock = transport.get_extra_info("socket")
                if sock is not None and sock.type == socket.SOCK_STREAM:
                    seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        assert len(seen) >= 4
        assert all(seen)


def transports() -> list[asyncio.Transport]:
    """List the open connections of the running loop."""
    loop = asyncio.get_running_loop()
    return list(loop._transports.values())  # type: ignore[attr-defined]
