"""The blocking client of the admin API."""

import socket
from collections.abc import Iterator

import pytest

from llumnix.admin.client import AdminClient, NotAFrontendError, RefusedError
from llumnix.admin.schema import (
    DrainStatus,
    EventRecord,
    FleetStatus,
    MigrationStatus,
    News,
    RequestDecisions,
)
from llumnix.errors import ConfigError, Unreachable
from tests.llumnix.stub_frontend import StubFrontend, fleet, serving


@pytest.fixture
def stub() -> Iterator[StubFrontend]:
    with serving(StubFrontend()) as running:
        yield running


def test_it_asks_what_the_admin_api_answers(stub: StubFrontend) -> None:
    """Each method is one request, with only what was given in its body."""
    ordered = MigrationStatus("m1")
    news = News(9, (EventRecord(9, "drain"),))
    drained = DrainStatus("emu-1", "up")
    stub.answers["POST /llumnix/migrate"] = [(200, {"migration_id": "m1"})]
    stub.answers["POST /llumnix/drain"] = [(200, {"instance_id": "emu-1", "state": "up"})]
    stub.answers["GET /llumnix/explain/a%2Fb"] = [(200, {"request_id": "a/b", "decisions": []})]
    stub.answers["GET /llumnix/events"] = [
        (200, {"next": 9, "events": [{"seq": 9, "kind": "drain"}]})
    ]
    client = AdminClient(stub.url)
    assert client.fleet() == FleetStatus.from_json(fleet())
    assert client.events(after=8) == news
    assert client.migrate(source="emu-0") == ordered
    assert client.drain("emu-1", on=False) == drained
    assert client.explain("a/b") == RequestDecisions("a/b")
    assert stub.asked == [
        ("GET", "/llumnix/fleet", None),
        ("GET", "/llumnix/events?after=8", None),
        ("POST", "/llumnix/migrate", {"source": "emu-0"}),
        ("POST", "/llumnix/drain", {"instance_id": "emu-1", "on": False}),
        ("GET", "/llumnix/explain/a%2Fb", None),
    ]


def test_a_refusal_is_told_in_the_frontends_own_words(stub: StubFrontend) -> None:
    """An OpenAI-shaped error becomes RefusedError with its message."""
    stub.answers["POST /llumnix/migrate"] = [(409, {"error": {"message": "it is at a already"}})]
    with pytest.raises(RefusedError, match="it is at a already"):
        AdminClient(stub.url).migrate(request_id="r")


@pytest.mark.parametrize(
    "answer",
    [
        (404, b"<html>not here</html>"),
        (404, {"error": {"message": "no"}}),
        (200, b"hello"),
        (200, []),
        (200, {"object": "list"}),
        (200, {"instances": [{"id": 7}]}),
    ],
)
def test_another_server_is_told_apart_from_a_frontend(
    stub: StubFrontend, answer: tuple[int, object]
) -> None:
    """An untouched vLLM or a web site does not pass for an empty fleet."""
    stub.answers["GET /llumnix/fleet"] = [answer]
    with pytest.raises(NotAFrontendError, match="--url"):
        AdminClient(stub.url).fleet()


def test_nobody_there_says_how_to_start_one() -> None:
    """Connection refused becomes advice."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"connection refused.*llumnix serve.*--url"):
            AdminClient(url).fleet()


def test_a_server_that_accepts_and_stays_silent_times_out() -> None:
    """Every wait is bounded."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = AdminClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(Unreachable, match="timed out"):
            client.fleet()


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", "http://h:99999", "://"])
def test_an_unusable_url_is_a_mistake_of_the_caller(url: str) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigError, match="URL"):
        AdminClient(url)


def test_a_base_path_and_a_missing_scheme_are_understood(stub: StubFrontend) -> None:
    """What people type works: host:port, and a frontend behind a path."""
    stub.answers["GET /behind/llumnix/fleet"] = [(200, fleet())]
    assert AdminClient(f"{stub.url.removeprefix('http://')}").fleet() == FleetStatus.from_json(
        fleet()
    )
    assert AdminClient(f"{stub.url}/behind/").fleet() == FleetStatus.from_json(fleet())
