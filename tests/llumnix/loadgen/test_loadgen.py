"""The load generator, against a server whose every token is known."""

import asyncio
import json
from array import array
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from llumnix.loadgen import (
    Endpoint,
    LoadOptions,
    PromptSource,
    RequestRecord,
    Status,
    run_load,
)
from llumnix.loadgen.completion import parse_completion
from llumnix.loadgen.exchange import Exchange
from llumnix.loadgen.reply import parse_reply
from simulator.workload.request import TraceRequest
from tests.llumnix.stub_server import Stub, serving, stub_decode, stub_output

OPTIONS = LoadOptions(model="stub-model", speed=50.0, return_token_ids=True, timeout_s=20.0)


def workload(count: int, gap_s: float = 0.1) -> list[TraceRequest]:
    return [TraceRequest(i, i * gap_s, 5 + i, 10 + i) for i in range(count)]


async def replayed(
    stub: Stub, requests: Sequence[TraceRequest], options: LoadOptions = OPTIONS
) -> list[RequestRecord]:
    async with serving(stub):
        return await run_load(requests, Endpoint.parse(stub.url), options)


async def test_every_request_is_sent_as_its_workload_says() -> None:
    stub, requests = Stub(), [*workload(4), TraceRequest(4, 0.5, 7, 3, "high", "alice")]
    await replayed(stub, requests)
    prompts = OPTIONS.prompts
    for request in requests:
        body, headers = stub.bodies[request.index], stub.headers[request.index]
        assert body["prompt"] == prompts.token_ids(request)
        assert len(body["prompt"]) == request.prompt_tokens
        assert body["max_tokens"] == request.output_tokens
        assert (body["ignore_eos"], body["stream"], body["return_token_ids"]) == (True, True, True)
        assert body["model"] == "stub-model"
        assert headers["X-Llumnix-Class"] == request.class_name
    assert stub.bodies[4]["user"] == "alice"
    assert "user" not in stub.bodies[0]


@pytest.mark.parametrize("tokens_a_chunk", [1, 4, 1000])
@pytest.mark.parametrize("split_writes", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_streams_come_through_whole_however_they_are_framed(
    tokens_a_chunk: int, split_writes: bool, line_end: str
) -> None:
    stub = Stub(tokens_a_chunk=tokens_a_chunk, split_writes=split_writes, line_end=line_end)
    for record in await replayed(stub, workload(6)):
        expected = stub_output(OPTIONS.prompts.token_ids(record.request), record.tokens)
        assert record.status is Status.FINISHED
        assert record.tokens == record.request.output_tokens == len(record.token_times_s)
        assert record.token_ids == tuple(expected)
        assert record.text == stub_decode(expected)
        assert record.finish_reason == "length"


async def test_times_are_causal_and_in_fleet_seconds() -> None:
    """Scheduled before sent, sent before the first token, tokens in order, in scaled seconds."""
    stub = Stub(token_gap_s=0.002)
    for record in await replayed(stub, workload(5)):
        assert record.slip_s >= 0.0
        assert record.ttft_s is not None
        assert record.e2e_s is not None
        assert record.tpot_s is not None
        assert 0.0 <= record.slip_s <= record.ttft_s <= record.e2e_s
        assert (np.diff(record.token_times_s) >= 0).all()
        # Ten tokens apart by 2 ms of wall time are at least 0.9 s of a fleet 50 times as fast.
        assert record.e2e_s - record.ttft_s >= 9 * 0.002 * OPTIONS.speed
        assert record.tpot_s == pytest.approx(
            (record.e2e_s - record.ttft_s) / (record.request.output_tokens - 1)
        )


async def test_the_loop_is_open_all_are_sent_while_none_is_answered() -> None:
    stub = Stub(hold_all=asyncio.Event())
    seen: list[tuple[int, int, int]] = []

    def progress(done: int, total: int, in_flight: int) -> None:
        seen.append((done, total, in_flight))
        if in_flight == 8:
            asyncio.get_running_loop().call_later(0.1, release)

    def release() -> None:
        assert stub.hold_all is not None
        stub.hold_all.set()

    async with serving(stub):
        records = await run_load(workload(8), Endpoint.parse(stub.url), OPTIONS, progress)
    assert stub.most_open == 8
    assert {record.status for record in records} == {Status.FINISHED}
    assert seen[-1] == (8, 8, 0)
    assert all(done + in_flight <= total for done, total, in_flight in seen)


async def test_a_bound_on_open_requests_holds_and_its_wait_is_slip() -> None:
    stub = Stub(token_gap_s=0.002)
    options = LoadOptions(model="m", speed=50.0, timeout_s=20.0, max_open=2)
    records = await replayed(stub, workload(6, gap_s=0.0), options)
    assert stub.most_open == 2
    assert max(record.slip_s for record in records) > 9 * 0.002 * 50.0


async def test_refusals_for_length_are_rejections_and_other_400s_failures() -> None:
    stub = Stub(
        refuse={
            0: (400, "This model's maximum context length is 2048 tokens."),
            1: (400, "prompt + max_tokens exceed max_model_len 2048"),
            2: (413, "body too large"),
            3: (429, "queue full"),
            4: (503, "no instance is up"),
            5: (400, "temperature must be a number"),
            6: (500, "boom"),
        }
    )
    records = await replayed(stub, workload(8))
    assert [record.status for record in records] == [
        *[Status.REJECTED] * 5,
        *[Status.FAILED] * 2,
        Status.FINISHED,
    ]
    assert [record.shed for record in records] == [False] * 3 + [True] * 2 + [False] * 3
    assert [record.http_status for record in records] == [400, 400, 413, 429, 503, 400, 500, 200]
    assert records[5].error == "HTTP 400: temperature must be a number"
    assert records[6].error == "HTTP 500: boom"


async def test_broken_streams_are_cut_or_failed_by_whether_a_token_came() -> None:
    stub = Stub(
        cut_after={0: 0, 1: 4},
        finish_reason={2: "abort"},
        stream_error={3},
        hang={4},
    )
    options = LoadOptions(model="m", return_token_ids=True, timeout_s=2.0, speed=50.0)
    records = await replayed(stub, workload(6), options)
    assert [record.status for record in records] == [
        Status.FAILED,
        Status.CUT,
        Status.CUT,
        Status.CUT,
        Status.FAILED,
        Status.FINISHED,
    ]
    assert records[1].tokens == 4
    assert "broke off" in records[1].error
    assert "aborted" in records[2].error
    assert records[3].error == "the engine died"
    assert "within 2 s" in records[4].error


async def test_without_a_server_every_request_fails_with_a_story() -> None:
    async with serving(Stub()) as stub:
        gone = Endpoint.parse(stub.url)
    records = await run_load(workload(3), gone, OPTIONS)
    assert {record.status for record in records} == {Status.FAILED}
    assert all("cannot connect to" in record.error for record in records)


async def test_without_token_ids_tokens_are_counted_by_the_server() -> None:
    stub = Stub(give_ids=False, tokens_a_chunk=3)
    for record in await replayed(stub, workload(3)):
        assert record.token_ids is None
        assert record.tokens == record.request.output_tokens
        assert record.ttft_s is not None


async def test_a_full_store_of_answers_changes_nothing() -> None:
    """Answers taken apart during the run give the records of those taken apart after it."""
    small = replace(OPTIONS, kept_answers_bytes=3000)
    for record in await replayed(Stub(), workload(12), small):
        assert record.status is Status.FINISHED
        assert record.tokens == record.request.output_tokens


def test_prompts_are_fixed_by_seed_and_index_and_stay_in_their_range() -> None:
    source, request = PromptSource(3, 50, 60), TraceRequest(9, 0.0, 400, 1)
    assert source.token_ids(request) == PromptSource(3, 50, 60).token_ids(request)
    assert set(source.token_ids(request)) == set(range(50, 60))
    assert source.token_ids(request) != PromptSource(4, 50, 60).token_ids(request)
    assert source.token_ids(request) != source.token_ids(TraceRequest(8, 0.0, 400, 1))
    with pytest.raises(ValueError, match="range"):
        PromptSource(0, 60, 50)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://a:8000", Endpoint("a", 8000, False, "", "a:8000")),
        ("http://a:8000/v1/", Endpoint("a", 8000, False, "", "a:8000")),
        ("a:8000", Endpoint("a", 8000, False, "", "a:8000")),
        ("https://a/base/v1", Endpoint("a", 443, True, "/base", "a")),
        ("http://[::1]:80/", Endpoint("::1", 80, False, "", "[::1]:80")),
    ],
)
def test_base_urls_are_read_as_openai_clients_write_them(url: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(url) == endpoint


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:port"])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Endpoint.parse(url)


async def test_a_header_cannot_smuggle_another() -> None:
    options = LoadOptions(model="m", headers={"X-A": "b\r\nX-Evil: 1"})
    with pytest.raises(ExceptionGroup) as caught:
        await replayed(Stub(), workload(1), options)
    assert caught.group_contains(ValueError, match="one line")


def chunked(*pieces: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


@pytest.mark.parametrize("read_bytes", [1, 7, 64, 10_000])
def test_each_byte_of_a_body_has_the_time_of_the_read_that_brought_it(read_bytes: int) -> None:
    """However reads and chunks overlap; checked against a byte-by-byte reading."""
    pieces = [b"data: one\n\n", b"da", b"ta: two\n\ndata: three\n\n", b"x" * 40]
    raw = chunked(*pieces)
    ends = [min(end, len(raw)) for end in range(read_bytes, len(raw) + read_bytes, read_bytes)]
    exchange = Exchange(raw, array("d", [float(end) for end in ends]), array("q", ends))
    reply = parse_reply(exchange)
    assert reply is not None
    assert reply.body == b"".join(pieces)
    position, body_offset = raw.index(b"\r\n\r\n") + 4, 0
    for piece in pieces:
        position += len(b"%x\r\n" % len(piece))
        for _ in piece:
            position, body_offset = position + 1, body_offset + 1
            expected = min(end for end in ends if end >= position)
            assert reply.times_of(np.array([body_offset]))[0] == expected
        position += 2


@pytest.mark.parametrize(
    "raw", [b"", b"HTTP/1.1 200 OK\r\nA: b", b"nonsense\r\n\r\n", b"SSH-2.0-x y\r\n\r\n"]
)
def test_what_is_no_http_answer_is_none(raw: bytes) -> None:
    assert parse_reply(Exchange(raw, array("d", [1.0]), array("q", [len(raw)]))) is None


@pytest.mark.parametrize("text", [" word", "", "caf\u00e9", 'a "quoted" \\ one', "\n\t", "]}]}"])
def test_the_short_way_of_reading_an_event_reads_what_the_long_way_does(text: str) -> None:
    """vLLM's own shape of an event, and the same with spaces, which only JSON parsing takes."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
    choice |= {"stop_reason": None, "token_ids": [51]}
    event = {"id": "cmpl-1", "choices": [choice]}
    ways = [
        json.dumps(event, separators=separators, ensure_ascii=ascii_only)
        for separators in ((",", ":"), (", ", ": "))
        for ascii_only in (True, False)
    ]
    for way in ways:
        completion = parse_completion(f"data: {way}\n\n".encode())
        assert completion.text == text
        assert completion.token_ids == [51]
        assert completion.event_ends == [len(f"data: {way}\n\n".encode())]


def test_a_text_that_looks_like_an_event_is_only_text() -> None:
    text = r"data: [DONE]\n\ndata: {\"choices\":[{\"token_ids\":[1,2]}]}\n\n"
    body = b'data: {"choices":[{"text":"%s","token_ids":[5]}]}\n\n' % text.encode()
    completion = parse_completion(body)
    assert completion.token_ids == [5]
    assert not completion.done
    assert completion.text.startswith("data: [DONE]\n\n")


def test_an_event_that_is_no_json_is_an_error() -> None:
    assert "not JSON" in parse_completion(b"data: {oops}\n\n").error
