"""What an engine says of requests that have ended, for clients that come back."""

from typing import Any

import pytest

from migration.llumlet.memory import Ended
from policies.types import RequestId
from tests.vllm.toys.toy_engine import ToyEngine
from tests.vllm.toys.toy_model import continuation
from tests.vllm.unit.test_moving_out import PROMPT, Loop, R, engine, rest, steps

__all__ = ["engine"]

ANSWER = tuple(continuation(PROMPT, 30))


@pytest.fixture
def ended(engine: ToyEngine) -> list[tuple[RequestId, Ended]]:
    """Return what has been said, in order."""
    heard: list[tuple[RequestId, Ended]] = []
    engine.side.listener.ended = lambda request_id, how: heard.append((request_id, how))
    loop: Any = Loop()
    engine.bridge.join(loop)
    return heard


def test_a_client_that_leaves_leaves_the_tokens(
    engine: ToyEngine, ended: list[tuple[RequestId, Ended]]
) -> None:
    engine.submit("a", PROMPT, 30, request_id=R, owner="me")
    steps(engine, 8)
    engine.abort("a")
    rest(engine)
    ((request_id, how),) = ended
    assert (request_id, how.owner, how.complete) == (R, "me", False)
    assert how.output_token_ids
    assert how.output_token_ids == ANSWER[: len(how.output_token_ids)]


def test_a_whole_answer_is_told(engine: ToyEngine, ended: list[tuple[RequestId, Ended]]) -> None:
    engine.submit("a", PROMPT, 30, request_id=R, owner="me")
    rest(engine)
    assert ended == [(R, Ended("me", ANSWER, complete=True))]


def test_of_others_nothing_is_kept(engine: ToyEngine, ended: list[tuple[RequestId, Ended]]) -> None:
    engine.submit("a", PROMPT, 30, request_id=R)
    rest(engine)
    assert not ended


def test_what_is_resumed_is_told_with_what_came_before(
    engine: ToyEngine, ended: list[tuple[RequestId, Ended]]
) -> None:
    resume = {"migration_id": None, "output_token_ids": list(ANSWER[:9])}
    engine.submit("a", PROMPT, 30, request_id=R, owner="me", resume=resume)
    rest(engine)
    assert ended == [(R, Ended("me", ANSWER, complete=True))]
