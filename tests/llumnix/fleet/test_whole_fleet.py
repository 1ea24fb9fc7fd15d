"""The product end to end: processes, sockets, migrations, kills and drains; every token checked."""

import asyncio
import os
import random
import signal
from functools import partial

import openai
import pytest

from tests.llumnix.fleet.whole_fleet import Client, ask, fleet, runs_something
from tests.llumnix.frontend.stage import until

SPEED = 10.0


async def keep_migrating(client: Client, dice: random.Random, ordered: list[str]) -> None:
    """Order moves of random requests until cancelled; notes those under way."""
    while True:
        rows = await client.get("/llumnix/requests")
        for row in dice.sample(rows, min(3, len(rows))):
            told = await client.post("/llumnix/migrate", {"request_id": row["request_id"]})
            ordered += [told["migration_id"]] if "migration_id" in told else []
        await asyncio.sleep(0.05)


def at_least(number: int, of: list[str]) -> bool:
    return len(of) >= number


async def blocks_all_free(client: Client) -> bool:
    blocks = [one["blocks"] for one in (await client.stats()).values()]
    return all(one["free"] == one["total"] for one in blocks)


async def one_is_down(client: Client) -> bool:
    rows = (await client.get("/llumnix/fleet"))["instances"]
    return [row["state"] for row in rows].count("down") == 1


async def test_streams_moved_again_and_again_are_right_and_nothing_leaks() -> None:
    """INV-2, INV-3, INV-4: migrations change no token and leave no block behind."""
    dice = random.Random(1)
    async with fleet(3, SPEED, "--set=migration.cooldown_s=0") as client:
        moving = asyncio.create_task(keep_migrating(client, dice, []))
        answers, totals = [], {"migrations_committed": 0}
        for turn in range(15):  # how many moves a turn sees depends on the machine
            answers += await asyncio.gather(
                *(ask(client, 20 * turn + n, dice.randint(5, 700), 150) for n in range(20))
            )
            totals = (await client.get("/llumnix/fleet"))["totals"]
            if totals["migrations_committed"] >= 10:
                break
        moving.cancel()
        freed = await client.settled(lambda: blocks_all_free(client))

    assert [answer.error for answer in answers if not answer.right] == []
    assert all(len(answer.ids) == 1 for answer in answers)
    assert all(
        answer.usage
        == {
            "prompt_tokens": len(answer.prompt),
            "completion_tokens": 150,
            "total_tokens": len(answer.prompt) + 150,
        }
        for answer in answers
    )
    assert totals["migrations_committed"] >= 10
    assert totals["stream_mismatches"] == 0
    assert freed


@pytest.mark.parametrize("seed", [1, 2])
async def test_streams_outlive_an_instance_that_is_killed(seed: int) -> None:
    """INV-6: SIGKILL at a random moment, migrations under way, costs no stream and no token."""
    dice = random.Random(seed)
    async with fleet(3, SPEED, "--set=migration.cooldown_s=0") as client:
        stats = await client.stats()
        asking = [
            asyncio.create_task(ask(client, seed * 100 + n, dice.randint(5, 300), 300))
            for n in range(15)
        ]
        ordered: list[str] = []
        moving = asyncio.create_task(keep_migrating(client, random.Random(seed), ordered))
        await until(partial(at_least, dice.randint(1, 10), ordered))
        os.kill(dice.choice(sorted(one["pid"] for one in stats.values())), signal.SIGKILL)
        answers = await asyncio.gather(*asking)
        moving.cancel()
        noticed = await client.settled(lambda: one_is_down(client))
        totals = (await client.get("/llumnix/fleet"))["totals"]
        freed = await client.settled(lambda: blocks_all_free(client))

    assert [answer.error for answer in answers if not answer.right] == []
    assert noticed
    assert totals["resumed"] >= 1
    assert freed


async def test_a_drained_instance_gets_empty_while_its_streams_go_on() -> None:
    async with fleet(3, SPEED) as client:
        asking = [asyncio.create_task(ask(client, n, 100, 400)) for n in range(12)]
        assert await client.settled(lambda: runs_something(client, "instance-0"))
        await client.post("/llumnix/drain", {"instance_id": "instance-0", "on": True})

        async def empty() -> bool:
            one = (await client.stats())["instance-0"]
            return bool(one["running"] == 0 and one["waiting"] == 0)

        emptied = await client.settled(empty)
        still_open = [task for task in asking if not task.done()]
        late = await ask(client, 99, 50, 10)
        ran_again = (await client.stats())["instance-0"]["running"]
        answers = await asyncio.gather(*asking)

    assert emptied
    assert still_open, "the drain must not merely have waited for the streams to end"
    assert late.right
    assert ran_again == 0
    assert [answer.error for answer in answers if not answer.right] == []


async def test_the_openai_client_talks_to_it_unchanged() -> None:
    async with (
        fleet(2, SPEED) as client,
        openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key="none", max_retries=0) as api,
    ):
        model = (await api.models.list()).data[0].id
        text = await api.completions.create(model=model, prompt="Once upon a time", max_tokens=12)
        parts = [
            chunk.choices[0].text
            async for chunk in await api.completions.create(
                model=model, prompt="Once upon a time", max_tokens=12, stream=True
            )
        ]
        chat = await api.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=12
        )
        deltas = [
            chunk.choices[0].delta.content or ""
            async for chunk in await api.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=12,
                stream=True,
            )
        ]
        with pytest.raises(openai.NotFoundError, match="nobody"):
            await api.completions.create(model="nobody", prompt="x")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await api.completions.create(model=model, prompt="x", max_tokens=-1)
        with pytest.raises(openai.BadRequestError, match="13616"):
            await api.completions.create(model=model, prompt=[300] * 13_616, max_tokens=10)

    assert "".join(parts) == text.choices[0].text
    assert "".join(deltas) == chat.choices[0].message.content
    assert text.usage is not None
    assert text.usage.completion_tokens == 12


async def members(client: Client) -> dict[str, str]:
    rows = (await client.get("/llumnix/fleet"))["instances"]
    return {row["id"]: row["state"] for row in rows}


async def test_instances_leave_and_join_under_load_and_no_token_is_lost() -> None:
    """Drained, removed, removed at once, added back: every stream is whole and right."""
    async with fleet(3, SPEED, "--set=migration.cooldown_s=0") as client:
        rows = (await client.get("/llumnix/fleet"))["instances"]
        address = {row["id"]: row["url"] for row in rows}
        asking = [asyncio.create_task(ask(client, n, 50 + 20 * n, 300)) for n in range(24)]

        async def left(name: str) -> bool:
            return name not in await members(client)

        async def all_up() -> bool:
            return list((await members(client)).values()) == ["up"] * 3

        for name, how in (("instance-0", ""), ("instance-1", "?now"), ("instance-2", "")):
            assert await client.settled(partial(runs_something, client, name))
            removed = f"{client.url}/llumnix/instances/{name}{how}"
            async with client.session.delete(removed, json={}) as response:
                assert response.status == 200
            assert await client.settled(partial(left, name))
            await client.post("/llumnix/instances", {"url": address[name]})
            assert await client.settled(all_up)
            first = len(asking)
            asking += [
                asyncio.create_task(ask(client, first + n, 30 * n + 5, 200)) for n in range(8)
            ]
        answers = await asyncio.gather(*asking)
        totals = (await client.get("/llumnix/fleet"))["totals"]
        freed = await client.settled(lambda: blocks_all_free(client))

    assert [answer.error for answer in answers if not answer.right] == []
    assert (totals["failed"], totals["stream_mismatches"]) == (0, 0)
    assert freed
