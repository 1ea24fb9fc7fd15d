"""Replayed tokens on their way to the parsers: kept apart, in order, nothing lost or merged."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestOutputCollector

from migration.vllm import collector
from migration.vllm.tags import STEP_MARK

collector.patch()
collector.patch()


def output(token: int, *, marked: bool = False, finished: bool = False) -> RequestOutput:
    return RequestOutput(
        request_id="r",
        prompt=None,
        prompt_token_ids=[],
        prompt_logprobs=None,
        outputs=[CompletionOutput(0, f"<{token}>", [token], None, None)],
        finished=finished,
        kv_transfer_params={STEP_MARK: True} if marked else None,
    )


def tokens(got: Any) -> list[int]:
    return list(got.outputs[0].token_ids)


def new(kind: RequestOutputKind = RequestOutputKind.DELTA) -> RequestOutputCollector:
    return RequestOutputCollector(kind, "r")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.booleans()), max_size=40))
def test_order_and_content_whatever_the_interleaving(events: list[bool | None]) -> None:
    """None reads; a truth value puts a token, marked or not."""
    queue, put, got = new(), list[tuple[int, bool]](), list[list[int]]()

    def read() -> bool:
        found = queue.get_nowait()
        if found is not None:
            got.append(tokens(found))
        return found is not None

    for event in events:
        if event is None:
            read()
        else:
            put.append((len(put), event))
            queue.put(output(len(put) - 1, marked=event))
    while read():
        pass
    assert [token for chunk in got for token in chunk] == [token for token, _ in put]
    marked = {token for token, mark in put if mark}
    assert all(len(chunk) == 1 for chunk in got if marked & set(chunk))


def test_unmarked_outputs_are_merged_as_ever() -> None:
    queue = new()
    for token in range(3):
        queue.put(output(token))
    assert tokens(queue.get_nowait()) == [0, 1, 2]
    assert queue.get_nowait() is None
    assert not hasattr(queue, "_llumnix_queue")


def test_unmarked_ones_behind_marked_ones_are_merged_with_each_other() -> None:
    queue = new()
    queue.put(output(0, marked=True))
    queue.put(output(1, marked=True))
    queue.put(output(2))
    queue.put(output(3, finished=True))
    assert [tokens(queue.get_nowait()) for _ in range(2)] == [[0], [1]]
    last: Any = queue.get_nowait()
    assert tokens(last) == [2, 3]
    assert last.finished


async def test_a_reader_that_waits_is_woken_for_each() -> None:
    queue = new()
    reader = asyncio.create_task(read_all(queue, 4))
    await asyncio.sleep(0)
    for token in range(2):
        queue.put(output(token, marked=True))
    await asyncio.sleep(0)
    for token in range(2, 4):
        queue.put(output(token, marked=True))
    async with asyncio.timeout(10):
        assert await reader == [[0], [1], [2], [3]]


async def read_all(queue: RequestOutputCollector, n: int) -> list[list[int]]:
    return [tokens(await queue.get()) for _ in range(n)]


async def test_an_error_comes_after_what_was_before_it() -> None:
    queue = new()
    queue.put(output(0, marked=True))
    queue.put(output(1, marked=True))
    queue.put(RuntimeError("the engine died"))
    assert await read_all(queue, 2) == [[0], [1]]
    with pytest.raises(RuntimeError, match="died"):
        await queue.get()


def test_an_error_alone_overtakes_unmarked_outputs_as_ever() -> None:
    queue = new()
    queue.put(output(0))
    queue.put(RuntimeError("the engine died"))
    with pytest.raises(RuntimeError, match="died"):
        queue.get_nowait()
