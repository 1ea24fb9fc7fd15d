"""Two workers and a scheduler as processes: they serve, and outlive each other."""

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.llumnix.workers.cluster import SOON_S, Cluster, cluster, kill

STREAMS, TOKENS = 16, 40
EMULATED = ("--emulate", "2")


async def _load(running: Cluster, until: asyncio.Event) -> Counter[str]:
    """Stream until told to stop; return how streams ended: equal prompts have equal answers."""
    results: Counter[str] = Counter()
    answers: dict[str, str] = {}

    async def client(number: int) -> None:
        while not until.is_set():
            prompt = f"prompt {number % 5}"
            text = await running.stream(prompt, TOKENS)
            if text is None:
                results["broken"] += 1
            else:
                results["right" if answers.setdefault(prompt, text) == text else "wrong"] += 1

    await asyncio.gather(*(client(number) for number in range(STREAMS)))
    return results


@pytest.mark.timeout(180)
async def test_the_scheduler_is_killed_again_and_again_under_load(tmp_path: Path) -> None:
    async with cluster(tmp_path, EMULATED) as running:
        until = asyncio.Event()
        load = asyncio.create_task(_load(running, until))
        ended = 0.0
        for times in range(1, 4):
            stands_by = (await running.children_when(4))[-1]
            kill((await running.children())[0] if times == 1 else _newest(running))
            await running.logged("event=scheduler_back", 2 * times)
            await running.logged("event=process_restarted process=scheduler", times)
            assert _newest(running) == stands_by
            shown = await running.ended()
            assert shown >= ended
            ended = shown
            rows = await running.get("/llumnix/fleet")
            assert {each["state"] for each in rows["instances"]} == {"up"}
        until.set()
        results = await load
        assert results["right"] > STREAMS
        assert not results["broken"]
        assert not results["wrong"]
        assert await running.ended() == sum(results.values())
        assert await running.get("/llumnix/requests") == []


def _newest(running: Cluster) -> int:
    """Return the id of the scheduler's process that was started last."""
    lines = [each for each in running.log().splitlines() if "event=process_restarted" in each]
    return int(lines[-1].partition(" pid=")[2].split()[0])


@pytest.mark.timeout(180)
async def test_a_worker_that_dies_takes_only_its_own_streams_with_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, EMULATED) as running:
        streams = [asyncio.create_task(running.stream("x", 120)) for _ in range(STREAMS)]
        await running.requests_when(lambda rows: len(rows) == STREAMS)
        kill((await running.children())[1])
        texts = await asyncio.gather(*streams)
        await running.logged("event=process_restarted process=worker")
        assert 0 < sum(text is not None for text in texts) < STREAMS
        assert len({text for text in texts if text is not None}) == 1
        await running.requests_when(lambda rows: not rows)
        assert await running.stream("x", 5) is not None


@pytest.mark.timeout(180)
async def test_orders_reload_and_leave(tmp_path: Path) -> None:
    settings = tmp_path / "llumnix.yaml"
    settings.write_text("frontend:\n  queue_limit: 7\n")
    async with cluster(tmp_path, (*EMULATED, "--config", str(settings))) as running:
        assert (await running.get("/llumnix/fleet"))["queue"]["limit"] == 7

        stream = asyncio.create_task(running.stream("y", 150))
        rows = await running.requests_when(lambda rows: rows and rows[0]["tokens"])
        request_id, source = rows[0]["request_id"], rows[0]["instance_id"]
        await running.order("/llumnix/migrate", request_id=request_id)
        assert await stream == await running.stream("y", 150)
        totals = (await running.get("/llumnix/fleet"))["totals"]
        assert (totals["migrations_committed"], totals["resumed"]) == (1, 1)
        why = (await running.get(f"/llumnix/explain/{request_id}"))["decisions"]
        assert [each["kind"] for each in why] == ["dispatch", "migrate"]

        await running.order("/llumnix/drain", instance_id=source, on=True)
        for number in range(4):
            assert await running.stream("z", 3, f"drained-{number}") is not None
            why = (await running.get(f"/llumnix/explain/drained-{number}"))["decisions"]
            assert why[0]["instance_id"] not in (None, source)

        settings.write_text("frontend:\n  queue_limit: 9\n")
        running.process.send_signal(signal.SIGHUP)
        await running.logged("event=reloaded")
        assert (await running.get("/llumnix/fleet"))["queue"]["limit"] == 9

        stream = asyncio.create_task(running.stream("y", 60))
        await running.requests_when(bool)
        running.process.send_signal(signal.SIGTERM)
        assert await stream is not None
        async with asyncio.timeout(SOON_S):
            assert await running.process.wait() == 0
        assert await running.children() == []


@pytest.mark.timeout(180)
async def test_one_id_is_given_to_one_request_at_a_time(tmp_path: Path) -> None:
    async with cluster(tmp_path, EMULATED) as running:
        streams = [asyncio.create_task(running.stream("x", 80, "twin")) for _ in range(STREAMS)]
        rows = await running.requests_when(lambda rows: len(rows) == STREAMS)
        ids = {each["request_id"] for each in rows}
        assert len(ids) == STREAMS
        assert "twin" in ids
        assert all(each.startswith("twin") for each in ids)
        texts = await asyncio.gather(*streams)
        assert len(set(texts)) == 1
        assert None not in texts
