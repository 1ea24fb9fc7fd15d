"""Which streams a server without our plugin can carry on, and what it is asked."""

import json
from typing import Any

import pytest

from llumnix.frontend.request.recompute import Recipe, recipe

TEXT = {"messages": [{"role": "user", "content": "hi"}]}
IMAGE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}
PARTS = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}


@pytest.mark.parametrize(
    ("asked", "able"),
    [
        ({}, True),
        (TEXT, True),
        (PARTS, True),
        (IMAGE, False),
        ({"messages": "nonsense"}, False),
        ({"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2}, True),
        ({"seed": 1}, False),
        ({"seed": 1, "temperature": 0.5}, False),
        ({"seed": 1, "temperature": 0}, True),
        ({"seed": None}, True),
        ({"presence_penalty": 0.1}, False),
        ({"presence_penalty": 0, "frequency_penalty": None}, True),
        ({"frequency_penalty": -1}, False),
        ({"tools": []}, True),
        ({"tools": [{}]}, False),
        ({"tool_choice": "none"}, True),
        ({"tool_choice": "auto"}, False),
        ({"response_format": {"type": "text"}}, True),
        ({"response_format": {"type": "json_schema"}}, False),
        ({"structured_outputs": {"regex": "a"}}, False),
        ({"guided_json": {}}, False),
        ({"logprobs": 0}, False),
        ({"logprobs": False}, True),
        ({"logprobs": True}, False),
        ({"bad_words": ["x"]}, False),
        ({"logit_bias": {"1": 2}}, True),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"continuous_usage_stats": True}}, False),
        ({"stream_options": "nonsense"}, False),
        ({"vllm_xargs": {}}, False),
        ({"stop": [7]}, False),
        ({"min_tokens": "x"}, False),
    ],
)
def test_only_what_is_known_to_be_harmless_qualifies(asked: dict[str, Any], able: bool) -> None:
    assert (recipe(asked) is not None) == able


def test_a_completion_is_asked_for_the_rest() -> None:
    """Limits are reduced by what there is, the default of 16 as well; stop strings are ours."""
    raw = b'{"prompt":"x","stop":"a","min_tokens":3,"temperature":0}'
    made = recipe(json.loads(raw))
    assert made is not None

    assert json.loads(made.body(raw, [1, 2], [3, 4, 5, 6], {})) == {
        "stop": [],
        "prompt": [1, 2, 3, 4, 5, 6],
        "min_tokens": 0,
        "max_tokens": 12,
        "temperature": 0,
        "return_token_ids": True,
    }
    assert made.stops == ("a",)
    assert not made.exhausted(15)
    assert made.exhausted(16)


def test_a_chat_keeps_its_messages_and_gets_the_ids_beside_them() -> None:
    """Without a limit of its own it runs to the model's, which is the same for both."""
    asked = {**TEXT, "kv_transfer_params": {"other": 1}, "stop": ["a", ""]}
    made = recipe(asked)
    assert made is not None
    body = json.loads(made.body(json.dumps(asked).encode(), [1], [2], {"other": 1}))

    assert body["messages"] == TEXT["messages"]
    assert body["kv_transfer_params"] == {"other": 1, "prompt_token_ids": [1, 2]}
    assert body.keys() == {"messages", "kv_transfer_params", "return_token_ids", "stop"}
    assert body["stop"] == []
    assert made == Recipe(chat=True, stops=("a",), include_stop=False, min_tokens=0, caps={})


def test_both_limits_of_a_chat_are_reduced() -> None:
    asked = {**TEXT, "max_tokens": 9, "max_completion_tokens": 7}
    made = recipe(asked)
    assert made is not None
    body = json.loads(made.body(json.dumps(asked).encode(), [1], [2, 3], {}))

    assert (body["max_tokens"], body["max_completion_tokens"]) == (7, 5)
