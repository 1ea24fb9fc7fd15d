"""What the log says of each request: how and where it ended, and never what its client said."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from llumnix.logs.formatter import LineFormatter
from llumnix.logs.scanners import quieten_servers
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script
from tests.llumnix.logs.test_line import read_logfmt

CANARY = "canary-4711"


class Lines:
    """All lines of the log, in both forms."""

    def __init__(self) -> None:
        self.raw = io.StringIO()
        self.json = io.StringIO()

    def about(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one kind."""
        read = [json.loads(line) for line in self.json.getvalue().splitlines()]
        return [line for line in read if line["event"] == event]


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    kept = Lines()
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = []
    for form, stream in (("logfmt", kept.raw), ("json", kept.json)):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(LineFormatter(form))
        handlers.append(handler)
        root.addHandler(handler)
    root.setLevel("DEBUG")
    yield kept
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


async def test_a_finished_stream_is_told_in_one_line(lines: Lines) -> None:
    async with Stage() as stage:
        async with stage.post({"prompt": [1, 2, 3]}, X_Request_Id="r-1") as response:
            await response.read()
        await until(lambda: lines.about("request_finished"))

    (line,) = lines.about("request_finished")
    assert (line["id"], line["class"], line["model"]) == ("r-1", "normal", "m")
    assert (line["path"], line["status"], line["level"]) == ("/v1/completions", 200, "info")
    assert (line["prompt_tokens"], line["output_tokens"], line["moves"]) == (3, 12, 0)
    assert line["instances"] == ["a"]
    assert 0 <= line["queue_wait_s"] <= line["ttft_s"] <= line["spent_s"]
    assert line["tpot_s"] >= 0
    assert "cause" not in line


async def test_a_stream_that_moved_names_its_instances_in_order(lines: Lines) -> None:
    async with Stage() as stage:
        stage.stubs[0].scripts.append(Script(tokens=5, then="die"))
        await stage.stream({"prompt": [1]})
        await until(lambda: lines.about("request_finished"))

    (line,) = lines.about("request_finished")
    assert (line["instances"], line["moves"], line["output_tokens"]) == (["a", "b"], 1, 12)


async def test_a_failed_request_is_named_at_the_default_level_with_its_cause(lines: Lines) -> None:
    async with Stage(1, max_attempts=1) as stage:
        stage.stubs[0].scripts.append(Script(status=500))
        async with stage.post(X_Request_Id="r-2") as response:
            assert response.status == 502
        stage.stubs[0].scripts.append(Script(tokens=3, then="die"))
        async with stage.post(X_Request_Id="r-3") as response:
            await response.read()
        await until(lambda: len(lines.about("request_failed")) == 2)

    before, amid = lines.about("request_failed")
    assert (before["id"], before["status"], before["level"]) == ("r-2", 502, "warning")
    assert "a answered 500" in before["cause"]
    assert (amid["id"], amid["status"], amid["output_tokens"]) == ("r-3", 200, 3)
    assert amid["cause"]


async def test_a_full_queue_is_heard_and_a_clients_mistake_is_not(lines: Lines) -> None:
    async with Stage(1, queue_limit=0) as stage:
        stage.instance("a").set_draining(True)
        async with stage.post() as response:
            assert response.status == 503
        async with stage.session.post("/v1/completions", data=b"{") as response:
            assert response.status == 400

    full, mistake = lines.about("request_rejected")
    assert (full["level"], full["status"]) == ("warning", 503)
    assert full["cause"].startswith("overloaded: ")
    assert (mistake["level"], mistake["cause"]) == ("info", "invalid_json")


async def test_a_client_that_leaves_is_told(lines: Lines) -> None:
    async with Stage(1) as stage:
        stage.stubs[0].scripts.append(Script(tokens=3, then="hang"))
        response = await stage.post()
        await response.content.readany()
        response.close()
        await until(lambda: lines.about("request_cancelled"))

    (line,) = lines.about("request_cancelled")
    assert (line["level"], line["output_tokens"]) == ("info", 3)


async def test_other_paths_are_told_without_what_they_lack(lines: Lines) -> None:
    async with Stage(1) as stage:
        async with stage.session.post(f"/v1/echo/x?key={CANARY}", data=b"x") as response:
            assert response.status == 207
        for path in ("/metrics", "/health", "/llumnix/fleet"):
            async with stage.session.get(path) as response:
                assert response.status == 200

    (line,) = [each for each in lines.about("request_finished") if each["level"] == "info"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/echo/x", 207)
    assert "output_tokens" not in line


async def test_nothing_of_what_a_client_says_is_ever_logged(lines: Lines) -> None:
    """Prompt, answer, key, headers and query, in requests that go well and that go wrong."""
    headers = {"Authorization": f"Bearer {CANARY}", "X-Custom": CANARY, "Cookie": CANARY}
    bodies: list[dict[str, Any]] = [
        {"prompt": CANARY},
        {"messages": [{"role": "user", "content": CANARY}], "user": CANARY},
        {"prompt": CANARY, "max_tokens": -1},
        {"prompt": CANARY, "kv_transfer_params": {"llumnix": {"x": CANARY}}},
    ]
    async with Stage(2, max_attempts=1) as stage:
        for script in (Script(), Script(status=500), Script(tokens=2, then="die")):
            for body in bodies:
                for stub in stage.stubs:
                    stub.scripts.append(script)
                path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
                asked = {"model": "m", "stream": True, **body}
                async with stage.session.post(
                    f"{path}?q={CANARY}", json=asked, headers=headers
                ) as response:
                    await response.read()
        bad = {**headers, "X-Llumnix-Class": CANARY}
        for data, extra in ((b'{"prompt": ' + CANARY.encode(), headers), (b"{}", bad)):
            async with stage.session.post("/v1/completions", data=data, headers=extra) as response:
                assert response.status == 400
        async with stage.session.post("/tokenize", data=CANARY, headers=headers) as response:
            await response.read()

    text = lines.raw.getvalue()
    assert text.count("event=request_") >= len(bodies) * 3
    assert CANARY not in text
    assert CANARY not in lines.json.getvalue()


async def test_scanners_leave_no_traceback(lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    """TLS to a plain port, no HTTP at all, a request line without end, a client that is gone."""
    quieten_servers()
    async with Stage(1) as stage:
        host, port = stage.url.removeprefix("http://").split(":")
        for data in (b"\x16\x03\x01\x02\x00\x01", b"GET", b"\0" * 99, b"GET " + b"a" * 70000):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data + b"\r\n\r\n")
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(20):
                await reader.read()
            writer.close()
        async with aiohttp.ClientSession() as session, session.get(stage.url + "/health") as alive:
            assert alive.status == 200

    assert "traceback" not in lines.json.getvalue()
    said = list(map(json.loads, lines.json.getvalue().splitlines()))
    assert [line for line in said if line["level"] in ("warning", "error")] == []


async def test_lines_can_be_read_by_a_collector(lines: Lines) -> None:
    async with Stage(1) as stage:
        await stage.stream({"prompt": [1]})
        await until(lambda: lines.about("request_finished"))

    for line in lines.raw.getvalue().splitlines():
        assert {"time", "level", "event", "logger"} <= set(read_logfmt(line))
