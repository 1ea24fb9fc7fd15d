"""What passes through comes out as it went in, and what a server accepts is accepted here."""

import asyncio
import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.request.recompute import recipe
from llumnix.frontend.request.request import Classes, ClientRequest, is_true, parse
from tests.llumnix.frontend.paths.served import PathServer, answer
from tests.llumnix.frontend.stage import Stage

CLASSES = Classes(("high", "normal"), "normal")
PATHS = ["/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/tokenize"]
IDS = ["Root=1-67891233-abcdef012345;Self=1-x", "aGVsbG8+/w==", "x" * 256, "{curly}"]


async def raw(stage: Stage, data: bytes) -> bytes:
    """Send bytes on a connection of their own; return all that comes back."""
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    async with asyncio.timeout(20.0):
        got = await reader.read()
    writer.close()
    return got


def request(path: str, body: bytes = b'{"model":"m","messages":[]}', *lines: bytes) -> bytes:
    head = [f"POST {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close"]
    head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def heard(stage: Stage) -> list[tuple[Any, bytes]]:
    """List headers and bodies of all that the first server got."""
    stub = stage.stubs[0]
    assert isinstance(stub, PathServer)
    others: list[tuple[Any, bytes]] = [(each.headers, each.body) for each in stub.got]
    return others + [(each.headers, each.raw) for each in stub.heard]


@pytest.mark.parametrize("wanted", IDS)
@pytest.mark.parametrize("path", PATHS)
async def test_an_id_that_a_gateway_has_set_is_kept(path: str, wanted: str) -> None:
    async with Stage(1, engine=PathServer) as stage:
        headers = {"X-Request-Id": wanted, "traceparent": "00-ab-cd-01"}
        asked = {"model": "m", "messages": []}
        async with stage.session.post(path, json=asked, headers=headers) as response:
            assert response.status == 200
            if path != "/tokenize":
                assert response.headers["X-Request-Id"] == wanted
        ((got, _),) = heard(stage)

    assert got["X-Request-Id"] == wanted
    assert got["traceparent"] == "00-ab-cd-01"


async def test_each_of_two_with_one_id_hears_that_id() -> None:
    async with Stage(1, engine=PathServer) as stage:
        hold = asyncio.Event()

        async def wait(http: Any) -> Any:
            await hold.wait()
            return await answer(200, {})(http)

        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.extend([wait, wait])

        async def ask() -> str:
            headers = {"X-Request-Id": "same"}
            async with stage.session.post("/v1/embeddings", json={}, headers=headers) as response:
                return response.headers["X-Request-Id"]

        asked = [asyncio.ensure_future(ask()) for _ in range(2)]
        while len(stub.got) < 2:  # noqa: ASYNC110 - what is waited for signals no event
            await asyncio.sleep(0.001)
        hold.set()
        assert await asyncio.gather(*asked) == ["same", "same"]
        assert len({got["X-Request-Id"] for got, _ in heard(stage)}) == 2


@pytest.mark.parametrize("path", PATHS)
async def test_the_query_goes_along(path: str) -> None:
    async with Stage(1, engine=PathServer) as stage:
        seen: list[str] = []

        async def note(http: Any) -> Any:
            seen.append(http.raw_path)
            return await answer(200, {})(http)

        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        stub.plays.append(note)
        await raw(stage, request(path + "?api-version=1&x=%20a&x=b"))
        if path == "/v1/chat/completions":
            return  # the scripted engine does not say; test_upstream does
    assert seen == [path + "?api-version=1&x=%20a&x=b"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + b'{"model":"m","messages":[]}',
        '{"model":"m","messages":[{"role":"user","content":"é"}]}'.encode("utf-16"),
        b'{"model":"x","messages":[],"model":"m"}',
        b'{"model":null,"messages":[],"temperature":NaN}',
        b'{"model":"","messages":[],"seed":123456789012345678901234567890}',
        b'{"model":"m","messages":5}',
        b'{"model":"m","messages":1.5,"stop":5,"stream":true}',
        b'{"model":"m","messages":[],"stop":[1,null],"stream":1}',
        b'{"model":"m","messages":[],"stream_options":7,"n":"1","max_tokens":"5"}',
        b'{"model":"m","messages":[{"content":"\\ud800"}],"stream":"true"}',
    ],
    ids=["bom", "utf-16", "twice", "nan", "big", "number", "float", "stop", "lax", "surrogate"],
)
async def test_what_a_server_may_accept_is_left_to_it(path: str, body: bytes) -> None:
    async with Stage(1, engine=PathServer) as stage:
        got = await raw(stage, request(path, body))
        assert got.split(b" ")[1] == b"200", got[:300]
        assert len(heard(stage)) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_large_and_odd_headers_pass(path: str) -> None:
    async with Stage(1, engine=PathServer) as stage:
        large = b"Authorization: Bearer " + b"x" * 60_000
        latin = b"X-Name: caf\xe9"
        twice = (b"X-Many: 1", b"X-Many: 2")
        got = await raw(stage, request(path, b'{"messages":[]}', large, latin, *twice))
        assert got.split(b" ")[1] == b"200", got[:300]
        ((headers, _),) = heard(stage)

    assert len(headers["Authorization"]) > 60_000
    assert headers.getall("X-Many") == ["1", "2"]
    assert headers["X-Name"].startswith("caf")


@pytest.mark.parametrize("path", PATHS)
async def test_a_long_request_line_passes(path: str) -> None:
    async with Stage(1, engine=PathServer) as stage:
        got = await raw(stage, request(path + "?q=" + "x" * 30_000))

    assert got.split(b" ")[1] == b"200", got[:300]


async def test_large_headers_of_a_response_pass() -> None:
    async with Stage(1, engine=PathServer) as stage:
        stub = stage.stubs[0]
        assert isinstance(stub, PathServer)
        for path in ("/v1/embeddings", "/v1/responses"):
            stub.plays.append(answer(200, {}, X_Large="x" * 60_000))
            got = await raw(stage, request(path))
            assert b"x" * 60_000 in got, got[:300]


async def test_headers_that_concern_one_connection_stay_on_it() -> None:
    async with Stage(1, engine=PathServer) as stage:
        lines = (b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"X-End: 1")
        await raw(stage, request("/v1/embeddings", b"{}", *lines))
        ((headers, _),) = heard(stage)

    assert "X-End" in headers
    assert not {"X-Hop", "Keep-Alive"} & set(headers)


async def test_a_packed_body_is_unpacked_on_its_way() -> None:
    async with Stage(1, engine=PathServer) as stage:
        packed = gzip.compress(b'{"model":"m"}')
        await raw(stage, request("/v1/embeddings", packed, b"Content-Encoding: gzip"))
        ((headers, body),) = heard(stage)

    assert body == b'{"model":"m"}'
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize(
    "target",
    ["/v1/caf\u00e9", "/v1/%zz", "/v1/[x]", "/v1/x|y", "/v1/\\x", "/v1/a;b=c", "/v1/x?q=\u00e9|[]"],
)
async def test_an_odd_target_is_no_fault_of_an_instance(target: str) -> None:
    async with Stage(1, engine=PathServer) as stage:
        got = await raw(stage, request(target))
        assert got.split(b" ")[1] in (b"200", b"400"), got[:300]
        assert stage.instance("a").alive


@given(st.text(max_size=4) | st.integers(-2, 2) | st.booleans() | st.none() | st.floats(0, 2))
def test_what_is_true_is_what_a_server_takes_for_true(value: object) -> None:
    pydantic = pytest.importorskip("pydantic")
    try:
        taken = pydantic.TypeAdapter(bool).validate_python(value)
    except pydantic.ValidationError:
        return
    assert is_true(value) is taken


_ODD: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
_KNOWN = [
    *("messages", "prompt", "stop", "max_tokens", "max_completion_tokens", "min_tokens", "n"),
    *("stream", "stream_options", "logprobs", "tools", "tool_choice", "response_format", "echo"),
    *("priority", "service_tier", "kv_transfer_params", "model", "seed", "temperature", "best_of"),
]


@given(st.dictionaries(st.sampled_from(_KNOWN), _ODD))
def test_no_body_is_too_odd_to_be_read(parsed: dict[str, Any]) -> None:
    """It is refused in words, or forwarded with its members as they are."""
    raw_body = json.dumps(parsed).encode()
    read = parse("/v1/chat/completions", raw_body, {}, CLASSES)
    recipe(parsed)

    if isinstance(read, ClientRequest):
        onward = json.loads(read.body_ids)
        params = onward.pop("kv_transfer_params", None)
        onward.pop("return_token_ids", None)
        assert repr(onward) == repr({k: v for k, v in parsed.items() if k != "kv_transfer_params"})
        assert params is None or "kv_transfer_params" in parsed
    else:
        assert 400 <= read.status < 500
