"""`llumnix instances`, `migrate` and `drain` against a canned frontend."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llumnix.admin.client import RefusedError
from llumnix.commands.operating import steering
from llumnix.errors import ConfigError, Unreachable
from tests.llumnix.stub_frontend import StubFrontend, fleet, instance, serving

DRAINED = {"instance_id": "emu-0", "state": "draining"}


@pytest.fixture
def stub() -> Iterator[StubFrontend]:
    with serving(StubFrontend()) as running:
        yield running


def command(stub: StubFrontend, *words: str, **settings: float) -> int:
    parser = argparse.ArgumentParser()
    steering.add_arguments(parser.add_subparsers())
    args = parser.parse_args([*words, "--url", stub.url])
    vars(args).update({"poll_s": 0.001, **settings})
    code: int = args.run(args)
    return code


def test_instances_lists_every_figure_of_every_instance(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line an instance; piped output is not cut."""
    down = instance("emu-1", state="down", freeness=None, age_s=None)
    stub.answers["GET /llumnix/fleet"] = [(200, fleet(instance("emu-0"), down))]
    assert command(stub, "instances") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("  ")[0] == "emu-0"
    for figure in ("up", "123", "7", "2", "6,808 of 13,616", "512", "0.2 s ago", "127.0.0.1:1"):
        assert figure in lines[1]
    assert "down" in lines[2]
    assert "never" in lines[2]


def test_instances_says_why_one_is_not_up(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line below the table, which is wide enough as it is."""
    why = {"reason": "unauthorized", "detail": "GET /v1/models returned 401; give its key"}
    down = instance("emu-1", state="starting", freeness=None, age_s=None, **why)
    sources = [
        {"source": "dns://gpus:80", "reason": "it has no address"},
        {"source": "file:list", "reason": ""},
    ]
    told = fleet(instance("emu-0"), down, sources=sources)
    stub.answers["GET /llumnix/fleet"] = [(200, told)]
    assert command(stub, "instances") == 0
    *_, line, last = capsys.readouterr().out.splitlines()
    assert last == "source dns://gpus:80 fails: it has no address"
    assert line == "emu-1 is not up (unauthorized): GET /v1/models returned 401; give its key"


def test_instances_json_is_the_api_own(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """For programs, unchanged."""
    assert command(stub, "instances", "--json") == 0
    assert json.loads(capsys.readouterr().out) == fleet()["instances"]


def test_what_a_server_says_of_itself_is_never_markup(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets in an id are shown, not obeyed."""
    stub.answers["GET /llumnix/fleet"] = [(200, fleet(instance("[bold]x[/]")))]
    assert command(stub, "instances") == 0
    assert "[bold]x[/]" in capsys.readouterr().out


def ended(kind: str, migration_id: str = "m1") -> dict[str, Any]:
    return {"seq": 3, "kind": kind, "migration_id": migration_id, "text": f"r: a → b {kind}"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [("migration_committed", 0), ("migration_aborted", 1), ("migration_refused", 1)],
)
def test_migrate_waits_for_the_end_of_its_own_migration(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str], kind: str, code: int
) -> None:
    """Others' ends, and its own start, are not its end; the exit code says whether it moved."""
    order = {"migration_id": "m1", "source": "a", "destination": "b", "request_id": None}
    stub.answers["POST /llumnix/migrate"] = [(200, order)]
    stub.answers["GET /llumnix/events"] = [
        (200, {"next": 2, "events": [ended("migration_committed", "m0")]}),
        (200, {"next": 2, "events": [ended("migration_started")]}),
        (200, {"next": 3, "events": [ended(kind)]}),
    ]
    assert command(stub, "migrate", "--source", "a", "--wait") == code
    out = capsys.readouterr().out
    assert "ordered migration m1 of a request: a → b" in out
    assert f"r: a → b {kind}" in out


def test_migrate_gives_up_waiting_in_time(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """A migration whose end nobody tells does not hold the command for ever."""
    stub.answers["POST /llumnix/migrate"] = [(200, {"migration_id": "m1"})]
    assert command(stub, "migrate", "--request", "r", "--wait", end_wait_s=0.02) == 1
    assert "m1 has not ended" in capsys.readouterr().err


def test_migrate_needs_to_know_what_to_move(stub: StubFrontend) -> None:
    """Neither request nor source: nothing is ordered."""
    with pytest.raises(ConfigError, match=r"--request ID.*--source ID"):
        command(stub, "migrate", "--destination", "a")
    assert stub.asked == []


def test_migrate_passes_on_why_not(stub: StubFrontend) -> None:
    """The frontend's refusal is the command's error."""
    refusal = {"error": {"message": "there is no request 'r'"}}
    stub.answers["POST /llumnix/migrate"] = [(404, refusal)]
    with pytest.raises(RefusedError, match="there is no request 'r'"):
        command(stub, "migrate", "--request", "r")


def test_drain_waits_until_the_instance_is_empty_and_stays_so(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """Running, waiting and leaving requests all count; one empty report proves nothing."""
    stub.answers["POST /llumnix/drain"] = [(200, DRAINED)]
    busy = instance("emu-0", state="draining")
    empty = instance("emu-0", state="draining", running=0, waiting=0)
    leaving = [{"migration_id": "m", "source": "emu-0", "destination": "emu-1"}]
    states = [
        fleet(instance("emu-0")),
        fleet(busy),
        fleet(empty),
        fleet(busy),
        fleet(empty, migrations=leaving),
        fleet(empty),
    ]
    stub.answers["GET /llumnix/fleet"] = [(200, state) for state in states]
    assert command(stub, "drain", "emu-0") == 0
    assert "emu-0 is empty" in capsys.readouterr().out
    assert len(stub.answers["GET /llumnix/fleet"]) == 1
    assert ("POST", "/llumnix/drain", {"instance_id": "emu-0", "on": True}) in stub.asked


def test_drain_says_what_is_left_when_the_time_is_up(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and how much is still there."""
    stub.answers["POST /llumnix/drain"] = [(200, DRAINED)]
    assert command(stub, "drain", "emu-0", "--wait-s", "0.01") == 1
    assert "7 running, 2 waiting, 0 on the move" in capsys.readouterr().err


@pytest.mark.parametrize("end", [instance("emu-0", state="down"), instance("emu-9")])
def test_an_instance_that_dies_or_leaves_is_not_reported_as_empty(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str], end: dict[str, Any]
) -> None:
    """Empty means that its requests are safe, not that it is gone."""
    stub.answers["POST /llumnix/drain"] = [(200, DRAINED)]
    stub.answers["GET /llumnix/fleet"] = [(200, fleet()), (200, fleet(end))]
    assert command(stub, "drain", "emu-0") == 1
    assert "went away" in capsys.readouterr().err


def test_drain_undo_and_no_wait_return_at_once(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """One order each, one look at the fleet, no waiting."""
    stub.answers["POST /llumnix/drain"] = [(200, DRAINED)]
    assert command(stub, "drain", "emu-0", "--undo") == 0
    assert command(stub, "drain", "emu-0", "--wait-s", "0") == 0
    orders = [body for method, _, body in stub.asked if method == "POST"]
    assert [order["on"] for order in orders] == [False, True]
    assert len(stub.asked) == 4


def test_drain_of_an_unknown_instance_lists_the_known_ones(stub: StubFrontend) -> None:
    """A typo is answered with the choices."""
    with pytest.raises(ConfigError, match="the fleet has: emu-0, emu-1"):
        command(stub, "drain", "emu-7")


def test_no_frontend_is_an_error_that_helps(stub: StubFrontend) -> None:
    """The commands let Unreachable through to the CLI, which exits with 2."""
    stub.url = "http://127.0.0.1:9"
    with pytest.raises(Unreachable, match="llumnix serve"):
        command(stub, "instances")
