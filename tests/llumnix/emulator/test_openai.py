"""What bodies are understood, and how the others are refused."""

import json

import pytest

from llumnix.emulator.errors import ApiError
from llumnix.emulator.model.vocabulary import chat_prompt, encode
from llumnix.emulator.openai import Call, CallKind, ResumeField, read_call
from llumnix.emulator.requests import Sampling

LIMIT = 100
MESSAGES = [{"role": "user", "content": "hi"}]


def read(kind: CallKind = CallKind.COMPLETION, **body: object) -> Call:
    return read_call(kind, json.dumps(body).encode(), "m", LIMIT)


def refusal(kind: CallKind = CallKind.COMPLETION, **body: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(kind, **body)
    return caught.value


def test_the_least_a_completion_needs_is_a_prompt() -> None:
    """Everything else has OpenAI's default."""
    call = read(prompt="hi")
    assert call.prompt_token_ids == tuple(encode("hi"))
    assert call.sampling == Sampling(max_tokens=16)
    assert (call.stream, call.include_usage, call.return_token_ids) == (False, False, False)
    assert call.resume is None


@pytest.mark.parametrize("prompt", ["ab", ["ab"], [97, 98], [[97, 98]]])
def test_a_prompt_is_a_text_or_its_tokens(prompt: object) -> None:
    """Also as the only one of a list."""
    assert read(prompt=prompt).prompt_token_ids == (97, 98)


def test_everything_said_is_heard() -> None:
    """Sampling, streaming, and our extensions."""
    call = read(
        model="m",
        prompt="hi",
        max_tokens=9,
        min_tokens=2,
        ignore_eos=True,
        stop=["a", "b"],
        stream=True,
        stream_options={"include_usage": True},
        return_token_ids=True,
        temperature=0.7,
    )
    assert call.sampling == Sampling(9, True, 2, ("a", "b"))
    assert call.stream
    assert call.include_usage
    assert call.return_token_ids


def test_a_chat_may_use_all_the_room_there_is() -> None:
    """Without a limit of its own the answer ends at the model's."""
    prompt = chat_prompt(MESSAGES)
    call = read(CallKind.CHAT, messages=MESSAGES)
    assert call.prompt_token_ids == tuple(prompt)
    assert call.sampling.max_tokens == LIMIT - len(prompt)


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_a_chats_limit_has_two_names(key: str) -> None:
    """The newer goes first where both are given."""
    assert read(CallKind.CHAT, messages=MESSAGES, **{key: 5}).sampling.max_tokens == 5


def test_a_messages_parts_are_joined() -> None:
    """Content may be a list of texts."""
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    call = read(CallKind.CHAT, messages=[{"role": "user", "content": parts}])
    assert call.prompt_token_ids == tuple(chat_prompt(MESSAGES))


@pytest.mark.parametrize("raw", [b"{", b"", b"[1]", b'"text"', b"\xff"])
def test_bad_json_is_refused(raw: bytes) -> None:
    """400, not a crash."""
    with pytest.raises(ApiError) as caught:
        read_call(CallKind.COMPLETION, raw, "m", LIMIT)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [4096]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens"),
        ({"prompt": "a", "n": 2}, "n"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": 3}, "stop"),
        ({"prompt": "a", "stream": "yes"}, "stream"),
        ({"prompt": "a", "kv_transfer_params": {"llumnix": {}}}, "kv_transfer_params"),
    ],
)
def test_wrong_fields_are_named(body: dict[str, object], param: str) -> None:
    """400, and the client learns which field it was."""
    error = refusal(CallKind.COMPLETION, **body)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize("messages", [None, [], ["hi"], [{"role": "user"}], [{"content": "x"}]])
def test_wrong_messages_are_refused(messages: object) -> None:
    """Each needs a role and text."""
    assert refusal(CallKind.CHAT, messages=messages).status == 400


def test_too_long_a_request_is_refused_naming_the_limit() -> None:
    """Prompt and answer together must fit the model."""
    error = refusal(prompt=[1] * 90, max_tokens=11)
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert "100 tokens" in str(error)
    assert "101 tokens" in str(error)
    assert read(prompt=[1] * 90, max_tokens=10).sampling.max_tokens == 10


def test_a_chat_without_room_for_an_answer_is_refused() -> None:
    """Even when it does not say how long the answer may be."""
    long = [{"role": "user", "content": "!" * 200}]
    assert refusal(CallKind.CHAT, messages=long).code == "context_length_exceeded"


def test_an_unknown_model_is_not_found() -> None:
    """404, and the client learns which there is."""
    error = refusal(model="other", prompt="a")
    assert (error.status, error.code) == (404, "model_not_found")
    assert "'m'" in str(error)


@pytest.mark.parametrize("outputs", [None, [], [300, 301]])
@pytest.mark.parametrize("early", [False, True])
def test_a_resume_is_read_as_it_was_signed(outputs: list[int] | None, early: bool) -> None:
    """Its fields are kept whole, for the signature to be checked."""
    fields: dict[str, object] = {
        "request_id": "r",
        "migration_id": "m",
        "output_token_ids": outputs,
        "issued_at": 1.5,
        "early": early,
        "signature": "00",
    }
    call = read(prompt="a", kv_transfer_params={"llumnix": fields})
    expected = None if outputs is None else tuple(outputs)
    assert call.resume == ResumeField(fields, "r", "m", expected, early)


def test_other_transfer_parameters_are_not_ours() -> None:
    """Unknown fields are let through."""
    assert read(prompt="a", kv_transfer_params={"other": 1}).resume is None
