"""What is not taken in, sent on, or not moved at all."""

from typing import Any

import pytest

from policies.types import RequestId
from tests.vllm.toys.toy_engine import ToyEngine
from tests.vllm.toys.toy_model import continuation
from tests.vllm.unit.test_moving_in import ANSWER, PROMPT, R, engine, rest, steps

__all__ = ["engine"]


@pytest.mark.parametrize(
    ("resume", "why"),
    [
        ({"signature": "forged"}, "malformed"),
        ({"migration_id": None, "output_token_ids": [1] * 20}, "this request cannot be resumed"),
        ({"migration_id": None, "output_token_ids": [1] * 120}, "this request cannot be resumed"),
        ({"migration_id": None, "output_token_ids": [], "request_id": "q"}, "another request's"),
    ],
)
def test_a_resume_field_nobody_may_act_on(
    engine: ToyEngine, resume: dict[str, object], why: str
) -> None:
    stream = engine.submit("a", PROMPT, 20, request_id=R, resume=resume)
    assert (stream.finish_reason, stream.stop_reason) == ("abort", f"llumnix:refused:{why}")
    rest(engine)
    assert engine.runner.computed == 0
    assert engine.side.counts["refused_resume"] == 1


def test_prompt_logprobs_are_refused_without_being_started(engine: ToyEngine) -> None:
    """VLLM 0.32 starts such a request at once, whatever we say: ending it then is too late."""
    resume = {"migration_id": None, "output_token_ids": ANSWER[:3]}
    stream = engine.submit("a", PROMPT, 20, request_id=R, resume=resume, prompt_logprobs=1)
    rest(engine)
    assert stream.stop_reason == "llumnix:refused:this request cannot be resumed"


def test_a_terminating_engine_sends_newcomers_on(engine: ToyEngine) -> None:
    engine.side.terminating = True
    new = engine.submit("a", PROMPT, 20, request_id=R, prompt_logprobs=1)
    plain = engine.submit("b", PROMPT, 3)
    resume = {"migration_id": None, "output_token_ids": ANSWER[:3]}
    resumed = engine.submit("c", PROMPT, 20, request_id="c", resume=resume)
    rest(engine)
    assert new.stop_reason == "migrate:requeue"
    assert plain.token_ids == ANSWER[:3]
    assert resumed.token_ids == ANSWER


def test_a_request_sent_back_has_just_begun(engine: ToyEngine) -> None:
    """It goes on here: ending it within the step that starts it would kill the engine."""
    stream = engine.submit("a", PROMPT, 5, request_id=R, prompt_logprobs=1)
    plain = engine.submit("b", [9, *PROMPT], 5, request_id="q")
    tracked = engine.side.register.get(R)
    assert tracked is not None
    engine.side.requeue(tracked)
    rest(engine)
    assert plain.token_ids == continuation([9, *PROMPT], 5)
    assert stream.stop_reason in (None, "migrate:requeue")
    assert stream.token_ids in ([], ANSWER[:5])


def test_a_queued_request_is_sent_back(engine: ToyEngine) -> None:
    for index in range(9):
        engine.submit(f"r{index}", [index, *PROMPT], 5, request_id=f"r{index}")
    steps(engine, 1)
    waiting = engine.side.register.get(RequestId("r8"))
    assert waiting is not None
    engine.side.requeue(waiting)
    rest(engine)
    assert engine.streams["r8"].stop_reason == "migrate:requeue"
    assert all(engine.streams[f"r{n}"].finish_reason == "length" for n in range(8))


@pytest.mark.parametrize(
    "options", [{"name": "0_cmpl-a"}, {"prompt_logprobs": 1}, {"name": "12_chatcmpl-a"}]
)
def test_what_cannot_be_moved(options: dict[str, Any]) -> None:
    engine = ToyEngine()
    name = options.pop("name", "cmpl-a")
    engine.submit(name, PROMPT, 3, request_id=R, **options)
    engine.step()
    (view,) = engine.side.register.views()
    assert not view.movable
