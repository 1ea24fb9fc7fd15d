"""What a stream's client has: read ahead a bit at a time, or at once, it is the same."""

import asyncio

import pytest

from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.splicing.leg_filter import LegFilter, as_it_is
from llumnix.frontend.splicing.transcript import read
from tests.llumnix.frontend.splicing.vllm_chunks import VllmWriter

WRITER = VllmWriter({"messages": [], "return_token_ids": True})


def followed() -> tuple[DeliveredStream, LegFilter]:
    record = DeliveredStream()
    strand = LegFilter(None, plugged=True, hide=as_it_is, event_limit_bytes=1 << 20)
    record.follow(strand)
    return record, strand


@pytest.mark.parametrize("ahead", [0, 1, 700])
async def test_reading_ahead_changes_nothing(ahead: int) -> None:
    record, strand = followed()
    sent = b""
    for place in range(900):
        event = WRITER.tokens(place, place + 1)
        strand.feed(event)
        sent += event
        if place == ahead:
            await record.read_ahead()

    assert record.so_far() == read(sent)
    assert record.so_far() == read(sent)
    assert record.note()
    assert record.had == read(sent)
    assert record.tokens() == 900


async def test_reading_ahead_ends_when_somebody_else_has_read_on() -> None:
    record, strand = followed()
    sent = b"".join(WRITER.tokens(i, i + 1) for i in range(300))
    strand.feed(sent)
    reading = asyncio.create_task(record.read_ahead())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert record.so_far() == read(sent)
    await reading

    assert record.so_far() == read(sent)


async def test_a_leg_that_is_over_is_read_no_further() -> None:
    record, strand = followed()
    strand.feed(b"".join(WRITER.tokens(i, i + 1) for i in range(300)))
    reading = asyncio.create_task(record.read_ahead())
    await asyncio.sleep(0)
    record.note()
    following = LegFilter(None, plugged=True, hide=as_it_is, event_limit_bytes=1 << 20)
    record.follow(following)
    await reading

    assert record.tokens() == 300
