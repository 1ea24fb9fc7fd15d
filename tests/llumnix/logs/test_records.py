"""Records of `logging` as lines: their fields, how often they repeat, and what strangers cause."""

import io
import json
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.http_exceptions import BadStatusLine

from llumnix.logs.config import LogConfig
from llumnix.logs.formatter import LineFormatter
from llumnix.logs.limit import UNBOUNDED, RepeatLimit
from llumnix.logs.scanners import StrangerFilter
from llumnix.logs.setup import configure


class Captured:
    """A logger of its own whose lines are kept as JSON."""

    def __init__(self, name: str = "tests.logs") -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(LineFormatter("json"))
        self.log = logging.Logger(name, logging.DEBUG)
        self.log.addHandler(self.handler)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_a_template_names_the_event_and_its_fields() -> None:
    captured = Captured()
    captured.log.warning("instance_down instance=%s reason=%s", "a b", "no report for 10 s")
    captured.log.warning("event=accepted port=%d share=%.2f", 80, 0.5)

    first, second = captured.lines()
    assert (first["event"], first["level"]) == ("instance_down", "warning")
    assert (first["instance"], first["reason"]) == ("a b", "no report for 10 s")
    assert (second["event"], second["port"], second["share"]) == ("accepted", 80, 0.5)


def test_prose_is_kept_as_text() -> None:
    captured = Captured()
    captured.log.warning("a sentence: %s = %d", "x", 5)

    (line,) = captured.lines()
    assert (line["event"], line["text"]) == ("message", "a sentence: x = 5")


def test_a_traceback_is_a_field_of_the_line() -> None:
    captured = Captured()
    try:
        raise KeyError("gone")
    except KeyError:
        captured.log.exception("task_crashed name=%s", "keep")

    (line,) = captured.lines()
    assert "KeyError: 'gone'" in line["traceback"]


def test_a_line_that_repeats_is_bounded_and_the_rest_is_counted() -> None:
    now = [0.0]
    captured = Captured()
    captured.handler.addFilter(RepeatLimit(burst=3, period_s=10.0, clock=lambda: now[0]))
    for number in range(50):
        captured.log.warning("refused role=%s", number)
    captured.log.warning("other role=%s", 0)
    now[0] = 10.0
    captured.log.warning("refused role=%s", "next")

    assert [line["role"] for line in captured.lines()] == [0, 1, 2, 0, "next"]
    assert captured.lines()[-1]["left_out"] == 47


def test_every_request_is_named_however_many_there_are() -> None:
    captured = Captured(UNBOUNDED)
    captured.handler.addFilter(RepeatLimit(burst=3))
    for number in range(50):
        captured.log.warning("request_failed id=%s", number)

    assert len(captured.lines()) == 50


@pytest.mark.parametrize(
    "error", [BadStatusLine("\x16\x03\x01"), ConnectionResetError(), ssl.SSLError(1, "no TLS")]
)
def test_a_strangers_fault_is_one_line_at_debug(error: Exception) -> None:
    captured = Captured()
    captured.log.addFilter(StrangerFilter())
    captured.log.error("Error handling request", exc_info=error)
    captured.log.error("Error handling request", exc_info=KeyError("ours"))

    stranger, ours = captured.lines()
    assert stranger["level"] == "debug"
    assert "traceback" not in stranger
    assert ours["level"] == "error"
    assert "ours" in ours["traceback"]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


def test_configuring_twice_logs_once(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("json", "logfmt"):
        configure(LogConfig(level="info", format=form))
    logging.getLogger("tests.logs").info("hello name=%s", "you")

    (line,) = capsys.readouterr().err.splitlines()
    assert "event=hello name=you" in line


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of debug, info"):
        LogConfig(level="loud")
    with pytest.raises(ValueError, match="format must be one of logfmt, json"):
        LogConfig(format="xml")
