"""`llumnix replay`, as typed, against the stub server."""

import argparse
import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llumnix.commands import replay
from llumnix.errors import ConfigError, Unreachable
from llumnix.results.progress import RunProgress
from tests.llumnix.stub_server import Stub, serving, stub_decode, stub_output


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A stub server in a thread, since the command runs an event loop of its own."""
    monkeypatch.setattr(replay, "expected_output", stub_output)
    monkeypatch.setattr(replay, "decode", stub_decode)
    monkeypatch.setattr(replay, "CHECKERS", 0)
    stub, ready, done = Stub(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving(stub):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10.0)
    yield stub
    loop.call_soon_threadsafe(done.set)
    thread.join(10.0)
    assert not thread.is_alive()
    loop.close()


def fleet_pages(speed: float = 200.0) -> dict[str, Any]:
    """A fleet that commits two migrations whenever it is asked."""
    asked = [0]

    def fleet() -> dict[str, Any]:
        asked[0] += 1
        moves = [10.0] * (2 * asked[0])
        totals = {"migrations_committed": len(moves), "migrations_aborted": 0, "resumed": 0}
        totals |= {"downtime_ms": moves, "gap_ms": moves}  # type: ignore[dict-item]
        answer = {"policy": "freeness", "migration": True, "speed": speed, "totals": totals}
        return {**answer, "instances": []}

    engine = {
        "lag": {"steps": 1000, "late_steps": 0},
        "preemptions": 0,
        "decode_step_ms": {"p50": 43.5},
    }
    return {"/llumnix/fleet": fleet, "/llumnix/stats": engine}


def typed(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="llumnix")
    replay.add_arguments(parser.add_subparsers())
    args = parser.parse_args(["replay", *words])
    return int(args.run(args))


def replayed(stub: Stub, *words: str) -> int:
    return typed("--url", stub.url, "--requests", "12", "--rate", "100", *words)


def test_a_plain_server_is_measured(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed(stub, "--speed", "1", "--json", "-", "--slo-ttft-s", "1000") == 0
    shown = capsys.readouterr()
    data = json.loads(shown.out)
    assert data["requests"] == data["finished"] == 12
    assert data["migrations_committed"] is None
    assert data["tokens_lost"] is None
    assert data["goodput"]["share"] == 1.0
    assert data["speed"] == 1.0
    assert "TTFT" in shown.err
    assert "12 of 12 done" in shown.err
    assert stub.bodies[0]["model"] == "stub-model"


def test_a_fleet_says_its_speed_and_its_migrations(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.pages |= fleet_pages()
    out = tmp_path / "out.json"
    replayed(stub, "--check", "--json", str(out), "--seed", "3", "--high-share", "0.5")
    data = json.loads(out.read_text())
    assert (data["policy"], data["migration"]) == ("freeness", True)
    assert data["speed"] == 200.0
    assert data["migrations_committed"] == 2
    assert data["downtime_ms"] == {"p50": 10.0, "p99": 10.0}
    assert data["decode_step_ms"] == {"p50": 43.5}
    assert (data["tokens_lost"], data["tokens_doubled"], data["tokens_wrong"]) == (0, 0, 0)
    assert data["seed"] == 3
    assert set(data["by_class"]) == {"high", "normal"}
    assert "migrations committed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda stub: stub.refuse.update({1: (500, "boom")}), "failed"),
        (lambda stub: stub.cut_after.update({1: 3}), "cut"),
        (lambda stub: stub.spoil.update({1: lambda ids: ids[:2] + ids[3:]}), "tokens_lost"),
    ],
    ids=["an error", "a cut stream", "a lost token"],
)
def test_a_failure_makes_the_exit_status_one(
    stub: Stub, spoil: Callable[[Stub], None], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.pages |= fleet_pages(speed=1.0)
    spoil(stub)
    assert replayed(stub, "--check", "--json", "-") == 1
    data = json.loads(capsys.readouterr().out)
    assert data[fault] == 1
    assert data["finished"] == 12 - data["failed"]


def test_a_request_too_long_is_rejected_and_no_failure(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.refuse[4] = (400, "maximum context length is 2048 tokens")
    assert replayed(stub, "--speed", "1", "--json", "-") == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["finished"], data["failed"], data["rejected"], data["shed"]) == (11, 0, 1, 0)


def test_headers_are_sent_along(stub: Stub) -> None:
    replayed(stub, "--speed", "1", "--header", "Authorization: Bearer abc")
    assert stub.headers[3]["Authorization"] == "Bearer abc"


def test_a_speed_that_is_not_the_fleets_is_refused(stub: Stub) -> None:
    stub.pages |= fleet_pages(speed=20.0)
    with pytest.raises(ConfigError, match="emulated at speed 20"):
        replayed(stub, "--speed", "5")


def test_only_emulated_outputs_can_be_checked(stub: Stub) -> None:
    with pytest.raises(ConfigError, match="emulated"):
        replayed(stub, "--check")


def test_an_unreachable_server_is_named_with_what_to_do() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*llumnix serve"):
        typed("--url", "http://127.0.0.1:9", "--requests", "1")


@pytest.mark.parametrize(
    ("words", "story"),
    [
        (["--prompt-ids", "9"], "LOW:HIGH"),
        (["--prompt-ids", "9:3"], "range"),
        (["--header", "nothing"], "NAME: VALUE"),
        (["--speed", "-1"], "speed"),
        (["--trace", "no-such-trace"], "shipped profile"),
    ],
)
def test_wrong_arguments_say_what_to_do(words: list[str], story: str) -> None:
    with pytest.raises(ConfigError, match=story):
        typed("--url", "http://127.0.0.1:9", *words)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_terminals_and_elsewhere(*, terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with RunProgress("replay of mine", console) as progress:
        progress(1, 9, 4)
        progress(9, 9, 0)
    assert "9" in text.getvalue()
    assert "replay of mine" in text.getvalue()
