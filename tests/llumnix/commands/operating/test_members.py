"""`llumnix add` and `remove` against a canned frontend."""

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from llumnix.admin.client import RefusedError
from llumnix.commands.operating import members
from llumnix.errors import ConfigError
from tests.llumnix.stub_frontend import StubFrontend, fleet, instance, serving

URL = "http://gpu1:8000"


def row(state: str = "up", **changes: Any) -> dict[str, Any]:
    return instance("gpu1:8000", url=URL, state=state, **changes)


@pytest.fixture
def stub() -> Iterator[StubFrontend]:
    with serving(StubFrontend()) as running:
        told = {"instance_id": "gpu1:8000", "url": URL, "state": "starting"}
        running.answers["POST /llumnix/instances"] = [(200, told)]
        running.answers["GET /llumnix/fleet"] = [(200, fleet(row()))]
        gone = {**told, "state": "draining"}
        running.answers["DELETE /llumnix/instances/gpu1%3A8000"] = [(200, gone)]
        yield running


def command(stub: StubFrontend, *words: str) -> int:
    parser = argparse.ArgumentParser()
    members.add_arguments(parser.add_subparsers())
    args = parser.parse_args([*words, "--url", stub.url])
    vars(args)["poll_s"] = 0.001
    code: int = args.run(args)
    return code


def test_add_gives_the_order(stub: StubFrontend, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(stub, "add", f"{URL}/v1") == 0
    assert stub.asked == [("POST", "/llumnix/instances", {"url": f"{URL}/v1"})]
    assert URL in capsys.readouterr().out


def test_add_waits_until_it_is_up(stub: StubFrontend, capsys: pytest.CaptureFixture[str]) -> None:
    fleets = [fleet(row("starting")), fleet(row("starting")), fleet(row())]
    stub.answers["GET /llumnix/fleet"] = [(200, each) for each in fleets]
    assert command(stub, "add", URL, "--wait") == 0
    assert capsys.readouterr().out == f"{URL} is up\n"


def test_add_says_why_it_is_not_up(stub: StubFrontend, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["GET /llumnix/fleet"] = [(200, fleet(row("starting", detail="returned 401")))]
    assert command(stub, "add", URL, "--wait", "--wait-s", "0.01") == 1
    assert "returned 401" in capsys.readouterr().err


def test_add_passes_on_a_refusal(stub: StubFrontend) -> None:
    error = {"message": "must be a URL", "type": "x", "param": "url", "code": None}
    stub.answers["POST /llumnix/instances"] = [(400, {"error": error})]
    with pytest.raises(RefusedError, match="must be a URL"):
        command(stub, "add", "gpu1")


@pytest.mark.parametrize(("flags", "query"), [([], ""), (["--now"], "?now")])
def test_remove_gives_the_order(stub: StubFrontend, flags: list[str], query: str) -> None:
    assert command(stub, "remove", "gpu1:8000", *flags) == 0
    assert stub.asked[-1] == ("DELETE", f"/llumnix/instances/gpu1%3A8000{query}", {})


def test_remove_waits_until_it_has_left(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    fleets = [fleet(row()), fleet(row("draining")), fleet()]
    fleets[2]["instances"] = []
    stub.answers["GET /llumnix/fleet"] = [(200, each) for each in fleets]
    assert command(stub, "remove", "gpu1:8000", "--wait") == 0
    assert "safe to stop" in capsys.readouterr().out


def test_remove_gives_up_waiting(stub: StubFrontend, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(stub, "remove", "gpu1:8000", "--wait", "--wait-s", "0.01") == 1
    assert "has not left" in capsys.readouterr().err


def test_remove_lists_what_there_is(stub: StubFrontend) -> None:
    with pytest.raises(ConfigError, match="gpu1:8000"):
        command(stub, "remove", "gpu2:8000")
