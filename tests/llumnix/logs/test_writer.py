"""Lines written in a thread: in order, all of them, and never waited for."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llumnix.logs.formatter import LineFormatter
from llumnix.logs.writer import BackgroundHandler


class Stuck(io.StringIO):
    """A stream whose reader stands still until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.waited_for = threading.Event()

    def write(self, text: str) -> int:
        self.waited_for.set()
        assert self.reads.wait(20)
        return super().write(text)


def logger_to(handler: logging.Handler) -> logging.Logger:
    handler.setFormatter(LineFormatter("json"))
    log = logging.Logger("tests.writer")
    log.addHandler(handler)
    return log


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    stream = Stuck()
    yield stream
    stream.reads.set()


def test_all_lines_are_written_in_order_before_it_closes() -> None:
    stream = io.StringIO()
    handler = BackgroundHandler(stream)
    log = logger_to(handler)
    for number in range(1000):
        log.warning("line number=%d", number)
    handler.close()

    assert [line["number"] for line in lines(stream)] == list(range(1000))


def test_a_reader_that_stands_still_holds_up_nobody_and_loses_are_counted(stuck: Stuck) -> None:
    handler = BackgroundHandler(stuck, bound=10)
    log = logger_to(handler)
    log.warning("line number=%d", -1)
    assert stuck.waited_for.wait(20)
    for number in range(100):
        log.warning("line number=%d", number)  # would never return if it waited
    stuck.reads.set()
    handler.close()

    written = lines(stuck)
    assert [line["number"] for line in written if line["event"] == "line"] == [-1, *range(10)]
    assert [line["count"] for line in written if line["event"] == "log_lines_dropped"] == [90]


def test_nobody_reading_any_more_is_no_error() -> None:
    stream = io.StringIO()
    handler = BackgroundHandler(stream)
    log = logger_to(handler)
    stream.close()
    log.warning("line number=%d", 1)
    handler.close()
