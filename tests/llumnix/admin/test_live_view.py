"""The live view: each frame is a pure function of what was seen."""

import argparse
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from llumnix.admin.client import AdminClient
from llumnix.admin.live_view import Rates, render
from llumnix.admin.schema import EventRecord, FleetStatus, Totals
from llumnix.commands.operating import top
from llumnix.errors import ConfigError, Unreachable
from tests.llumnix.stub_frontend import StubFrontend, fleet, instance, serving

SIZES = [(80, 24), (120, 40)]
LONG = "x" * 300


def drawn(
    answer: dict[str, Any] | None, width: int = 80, height: int = 24, **more: Any
) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    fleet = None if answer is None else FleetStatus.from_json(answer)
    seen = [EventRecord.from_json(event) for event in more.pop("events", [])]
    with console.capture() as capture:
        console.print(render(fleet, seen, width, height, **more))
    return capture.get().splitlines()


def migrations(count: int) -> list[dict[str, Any]]:
    return [
        {
            "migration_id": f"m{n}",
            "request_id": f"req-{n}",
            "source": "emu-0",
            "destination": "emu-1",
            "started_s": 3725.0 - n,
            "reason": "rebalance",
        }
        for n in range(count)
    ]


def events(count: int, text: str = "something") -> list[dict[str, Any]]:
    return [
        {"seq": n, "at_s": float(n), "kind": "drain", "text": f"{n} {text}"} for n in range(count)
    ]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("instances", [1, 4, 64])
@pytest.mark.parametrize("problem", ["", f"Trying again … {LONG}"])
def test_a_frame_fits_its_terminal_whatever_there_is(
    width: int, height: int, instances: int, problem: str
) -> None:
    """Never wider or taller, with ids and texts of any length and any number of everything."""
    answer = fleet(
        *(instance(f"instance-with-a-long-name-{n}") for n in range(instances)),
        migrations=migrations(9),
    )
    lines = drawn(answer, width, height, events=events(50, LONG), problem=problem)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any(line.startswith("events") for line in lines)
    assert "49 xxx" in lines[-1]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_frame_says_why_an_instance_is_not_up(width: int, height: int) -> None:
    """In one word, where its memory would be."""
    down = instance("emu-1", state="starting", reason="control_port", detail=LONG)
    lines = drawn(fleet(instance("emu-0"), down), width, height)
    (line,) = (line for line in lines if line.startswith(" emu-1"))
    assert "control port" in line
    assert max(map(len, lines)) <= width


def test_a_frame_shows_each_figure_once_where_it_belongs() -> None:
    """Header, instances, migrations and events carry what the API told."""
    answer = fleet(migrations=migrations(1))
    lines = drawn(answer, events=events(1), rates=Rates(12.3, 11.1, 42.0))
    head = "\n".join(lines[:4])
    for figure in (
        "freeness + migration",
        "up 1:02:05",
        "10x",
        "streams 31",
        "running 14",
        "waiting 4",
        "queued 4 of 512",
        "12.3 req/s in, 11.1 out",
        "requests 1,234",
        "finished 1,200",
        "failed 0",
        "rejected 3",
        "resumed 45",
        "migrations 120",
        "aborted 6",
        "42/min",
        "p50 51 ms, p99 100 ms",
    ):
        assert figure in head, figure
    (row,) = (line for line in lines if line.startswith(" emu-0   "))
    assert row.split()[:4] == ["emu-0", "up", "7", "2"]
    assert row.split()[-2:] == ["50%", "123"]
    assert " emu-0 ━━▶ emu-1   0.0 s  rebalance  req-0" in lines
    assert "0 something" in lines[-1]


def test_bars_read_without_colour() -> None:
    """Used, reserved and free differ by shape, and are in proportion."""
    quarter = instance("emu-0", physical_tokens=3404, reserved_tokens=3404)
    (row,) = (line for line in drawn(fleet(quarter), 120) if line.startswith(" emu-0"))
    used, reserved, free = (row.count(block) for block in "▆▄▁")
    assert used == reserved
    assert used + reserved == pytest.approx(free, abs=1)


def test_the_smallest_reservation_shows() -> None:
    """A migration coming in is seen, however short its request."""
    rows = drawn(fleet(instance("emu-0", reserved_tokens=16)))
    assert any("▄" in row for row in rows if row.startswith(" emu-0"))


def test_of_too_many_instances_the_least_free_are_shown() -> None:
    """Those are the ones in trouble; how many are not shown is said."""
    rows = [instance(f"emu-{n}", freeness=float(n)) for n in range(40)]
    lines = drawn(fleet(*reversed(rows)))
    shown = [line.split()[0] for line in lines if line.startswith(" emu-")]
    assert shown == [f"emu-{n}" for n in reversed(range(len(shown)))]
    assert f" and {40 - len(shown)} more, freer than these" in lines


def test_a_dead_instance_has_no_figures_that_could_be_taken_for_live_ones() -> None:
    """Its bar is empty and its freeness a dash."""
    lines = drawn(fleet(instance("emu-0", state="down")))
    (row,) = (line for line in lines if line.startswith(" emu-0"))
    assert "▆" not in row
    assert row.split()[-1] == "-"


def test_before_the_first_answer_the_problem_is_all_there_is() -> None:
    """No frame of zeros that looks like an idle fleet."""
    assert "nothing answers" in " ".join(drawn(None, problem="nothing answers"))


def test_rates_are_per_fleet_second_and_start_over_with_a_new_frontend() -> None:
    """A frontend restarted counts from 0; no negative rate appears."""

    def seen(now_s: float, requests: int) -> FleetStatus:
        return FleetStatus((), now_s=now_s, totals=Totals(requests))

    meter = top.RateMeter()
    meter.add(seen(100.0, 50))
    assert meter.rates() is None
    meter.add(seen(110.0, 80))
    assert meter.rates() == Rates(3.0, 0.0, 0.0)
    meter.add(seen(1.0, 2))
    assert meter.rates() is None


@pytest.fixture
def stub() -> Iterator[StubFrontend]:
    with serving(StubFrontend()) as running:
        yield running


def test_a_frontend_that_goes_away_and_comes_back_is_followed(stub: StubFrontend) -> None:
    """The last frame stays with the reason above it; new events of a new frontend replace old."""
    watch = top.FleetPoll(AdminClient(stub.url, timeout_s=1.0))
    stub.answers["GET /llumnix/events"] = [
        (200, {"next": 5, "events": events(5, "old")}),
        (200, {"next": 1, "events": []}),
        (200, {"next": 1, "events": events(1, "new")}),
    ]

    def frame(problem: str) -> str:
        console = Console(width=100, file=io.StringIO())
        with console.capture() as capture:
            console.print(watch.frame(100, 30, problem))
        return capture.get()

    assert "4 old" in frame(watch.try_to_look())
    good = stub.answers["GET /llumnix/fleet"]
    stub.answers["GET /llumnix/fleet"] = [(200, b"gibberish")]
    gone = frame(watch.try_to_look())
    assert "Trying again" in gone
    assert "4 old" in gone
    stub.answers["GET /llumnix/fleet"] = good
    back = frame(watch.try_to_look())
    assert "Trying again" not in back
    assert "old" not in back
    assert "0 new" in back


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    top.add_arguments(parser.add_subparsers())
    return parser.parse_args(["top", *words])


def test_once_prints_one_frame_and_ends(
    stub: StubFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    """For scripts: exit code 0, no control sequences."""
    assert top.run(parsed("--once", "--url", stub.url)) == 0
    out = capsys.readouterr().out
    assert "emu-1" in out
    assert "\x1b" not in out


def test_once_without_a_frontend_is_an_error() -> None:
    """A script must notice."""
    with pytest.raises(Unreachable):
        top.run(parsed("--once", "--url", "http://127.0.0.1:9"))


def test_an_interval_of_nothing_is_refused() -> None:
    """It would ask the frontend as fast as the machine can."""
    with pytest.raises(ConfigError, match="--interval-s"):
        top.run(parsed("--interval-s", "0"))


def test_ctrl_c_leaves_cleanly_and_restores_the_screen(
    stub: StubFrontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupting is how one leaves: exit code 0, the terminal as it was."""
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=80, height=24)
    monkeypatch.setattr(top, "Console", lambda: console)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert top.run(parsed("--url", stub.url)) == 0
    written = terminal.getvalue()
    assert "emu-1" in written
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
