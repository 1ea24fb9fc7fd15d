"""What a child is told arrives whole, and the end of its parent is noticed."""

import os

import pytest

from llumnix.config import Config
from llumnix.workers.setup import STOP, Settings, packed, read_message


def _settings() -> Settings:
    config = Config()
    return Settings(config.fleet, config.scheduler, config.frontend, config.logs)


def test_messages_follow_each_other_and_then_the_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, packed(_settings()) + packed(STOP))
    os.close(writing)
    assert read_message(reading) == _settings()
    assert read_message(reading) == STOP
    with pytest.raises(EOFError):
        read_message(reading)
    os.close(reading)


def test_a_message_that_breaks_off_is_the_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, packed(STOP)[:-1])
    os.close(writing)
    with pytest.raises(EOFError):
        read_message(reading)
    os.close(reading)
