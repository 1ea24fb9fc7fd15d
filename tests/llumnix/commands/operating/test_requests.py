"""`llumnix requests` against a canned frontend."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llumnix.commands.operating import requests
from tests.llumnix.stub_frontend import StubFrontend, serving


def row(request_id: str, **changes: Any) -> dict[str, Any]:
    told = {
        "request_id": request_id,
        "instance_id": "gpu1:8000",
        "class": "normal",
        "state": "running",
        "age_s": 1.25,
        "tokens": 1234,
        "movable": True,
        "why": "",
    }
    return told | changes


@pytest.fixture
def stub() -> Iterator[StubFrontend]:
    with serving(StubFrontend()) as running:
        stays = row("Root=1-[red]", movable=False, why="it is a conversation", instance_id=None)
        running.answers["GET /llumnix/requests"] = [(200, [row("r1"), stays])]
        yield running


def command(stub: StubFrontend, *words: str) -> int:
    parser = argparse.ArgumentParser()
    requests.add_arguments(parser.add_subparsers())
    args = parser.parse_args(["requests", *words, "--url", stub.url])
    code: int = args.run(args)
    return code


def test_every_request_is_listed_with_what_keeps_it_where_it_is(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(stub) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["r1", "gpu1:8000", "normal", "running", "1.2", "s", "1,234", "yes"]
    assert second.split()[:2] == ["Root=1-[red]", "-"]
    assert second.rstrip().endswith("no: it is a conversation")


def test_json_is_what_the_frontend_says(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(stub, "--json") == 0
    assert [each["movable"] for each in json.loads(capsys.readouterr().out)] == [True, False]


def test_a_frontend_that_is_older_moves_everything(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {key: value for key, value in row("r1").items() if key not in ("movable", "why")}
    stub.answers["GET /llumnix/requests"] = [(200, [old])]
    assert command(stub) == 0
    assert capsys.readouterr().out.rstrip().endswith("yes")
