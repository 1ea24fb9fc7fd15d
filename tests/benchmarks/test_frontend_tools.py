"""The frontend benchmark's load tools: what they answer, what they notice, what is made of it."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from frontend_parts import summary, tools
from frontend_parts.rounds import FIRST, PACED, PLAIN, STREAMED, TOKENS, Measured, Results

from llumnix.instances.discovery import discover
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.instance import VLLM, InstanceKind

CORES = sorted(os.sched_getaffinity(0))
TOKENS_SENT = 7


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    """Build the tools; without a compiler there is nothing to test."""
    try:
        tools.built("stub")
        tools.built("load")
    except tools.ToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def port() -> Iterator[int]:
    with tools.stub(CORES, 1) as ports:
        yield ports[0]


@pytest.mark.parametrize("options", [{}, {"chat": 1}, {"ids": 1, "chat": 1}, {"gap_us": 2000}])
def test_every_token_of_the_stub_is_counted_and_timed(port: int, options: dict[str, int]) -> None:
    seen = tools.load(CORES, port, conns=5, requests=20, tokens=TOKENS_SENT, **options)

    assert (seen.requests, seen.failed, seen.tokens, seen.failure) == (20, 0, 140, "")
    assert 0 < seen.first_ms["p50"] <= seen.whole_ms["max"]
    assert 0 < seen.forward_ms["p50"] <= seen.forward_ms["p99"]


def test_words_are_checked_too(port: int) -> None:
    options = {"conns": 5, "requests": 20, "tokens": TOKENS_SENT, "words": 1, "ids": 1}
    seen = tools.load(CORES, port, **options)

    assert (seen.failed, seen.tokens, seen.failure) == (0, 140, "")
    with tampering(port, lambda answer: answer.replace(chunk_of(answer, 3), b"")) as between:
        seen = tools.load(CORES, between, **{**options, "conns": 1, "requests": 1})
    assert seen.failed == 1


async def test_the_stub_is_taken_for_a_vllm_that_returns_ids_when_asked(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:
        identity = await discover(session, Endpoint.at(url), b"")
        ids = []
        for more in ({}, {"return_token_ids": True}):
            body = {"model": "m", "prompt": "Hello", "max_tokens": 2, **more}
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                ids.append((await answer.json())["choices"][0]["token_ids"])

    assert (identity.kind, identity.engine) == (InstanceKind.UNTOUCHED, VLLM)
    assert ids == [None, [1000, 1001]]


@contextmanager
def tampering(port: int, change: Callable[[bytes], bytes]) -> Iterator[int]:
    """Stand before a server for one connection, and change what it answers."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def pass_on() -> None:
            client, _ = door.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                client.settimeout(20)
                server.settimeout(20)
                server.sendall(client.recv(65536))
                answer = b""
                while not answer.endswith(b"0\r\n\r\n"):
                    answer += server.recv(65536)
                client.sendall(change(answer))

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        yield int(door.getsockname()[1])
        thread.join(20)


def chunk_of(answer: bytes, position: int) -> bytes:
    chunks = answer.split(b"\r\n\r\n", 1)[1].split(b"\n\n\r\n")
    return chunks[position] + b"\n\n\r\n"


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        (lambda answer: answer, ""),
        (lambda answer: answer.replace(chunk_of(answer, 3), b""), "lost or doubled token"),
        (lambda answer: answer.replace(chunk_of(answer, 3), 2 * chunk_of(answer, 3)), "doubled"),
        (lambda answer: answer.replace(chunk_of(answer, 6), b""), "ended early"),
        (lambda answer: answer.replace(chunk_of(answer, 7), b""), "ended early"),
        (lambda answer: answer[:-5], "connection closed"),
        (lambda answer: answer.replace(b"200 OK", b"503 No"), "HTTP 503"),
    ],
    ids=["whole", "one lost", "one doubled", "last lost", "no [DONE]", "cut", "refused"],
)
def test_a_stream_that_is_not_whole_is_noticed(
    port: int, change: Callable[[bytes], bytes], noticed: str
) -> None:
    with tampering(port, change) as between:
        options = {"conns": 1, "requests": 1, "tokens": TOKENS_SENT, "timeout_s": 20}
        seen = tools.load(CORES, between, **options)

    assert noticed in seen.failure
    assert seen.failed == (1 if noticed else 0)


def measured(cpu_s: float, tokens: int = 0, first_ms: float = 0.0) -> Measured:
    shares = {"p50": first_ms, "p99": 2 * first_ms}
    seen = tools.Load(100, 0, tokens, 1.0, "", shares, shares, shares, shares)
    return Measured(seen, {1: cpu_s})


def test_a_tokens_cost_leaves_out_the_requests_and_the_latency_what_is_there_without_a_router() -> (
    None
):
    results = Results(idle_cores={"direct": [], "router": [0.01]})
    for name, cpu_s, first_ms in (("direct", 0.0, 2.0), ("router", 0.5, 5.0)):
        results.measured[name] = {
            PLAIN: [measured(cpu_s)],
            STREAMED: [measured(cpu_s, 1600, first_ms)],
            PACED: [measured(cpu_s, 1600, first_ms)],
            TOKENS: [measured(cpu_s + 0.2, 10_100)],
            FIRST: [measured(cpu_s, 100)],
        }

    row = summary.summarise(results)["router"]

    medians = {key: each.median for key, each in row.items() if each is not None}
    assert medians["request_cpu_us"] == pytest.approx(5000)
    assert medians["token_cpu_us"] == pytest.approx(20)
    assert (medians["added_p50_ms"], medians["added_p99_ms"]) == (3.0, 6.0)
