"""Reading a client's request: its class, its size, and the few edits its body suffers."""

import json

import pytest

from llumnix.frontend.request.body import with_member, with_transfer, without_forged
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import Classes, ClientRequest, parse, request_id

CLASSES = Classes(("high", "normal", "batch"), "normal")
PATH = "/v1/completions"


def parsed(body: object, **headers: str) -> ClientRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    result = parse(PATH, raw, {k.replace("_", "-"): v for k, v in headers.items()}, CLASSES)
    assert isinstance(result, ClientRequest), result
    return result


def refused(body: object, **headers: str) -> Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    result = parse(PATH, raw, {k.replace("_", "-"): v for k, v in headers.items()}, CLASSES)
    assert isinstance(result, Refusal), result
    return result


ODD = b' {"prompt" : "caf\xc3\xa9\\u00e9", "x":1.50,\n "model":"m" , "stream":true, "k":{}}\r\n '


def test_a_body_keeps_its_bytes() -> None:
    """Spacing, escapes, number formats and unknown fields reach the instance as they came."""
    assert parsed(ODD).body == ODD
    assert parsed(ODD).body_ids == ODD.rstrip()[:-1] + b',"return_token_ids":true}'


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (b"{}", b'{"a":[1]}'),
        (b" { } ", b' {"a":[1]}'),
        (b'{"b":1}\n', b'{"b":1,"a":[1]}'),
        (b'{"a":false}', b'{"a":false,"a":[1]}'),
    ],
)
def test_a_member_is_added_before_the_last_brace(raw: bytes, wanted: bytes) -> None:
    assert with_member(raw, "a", [1]) == wanted
    assert json.loads(wanted)["a"] == [1]


@pytest.mark.parametrize(
    ("body", "hides"),
    [
        ({"stream": True}, True),
        ({"stream": True, "return_token_ids": False}, True),
        ({"stream": True, "return_token_ids": True}, False),
        ({"stream": False}, True),
        ({}, True),
        ({"return_token_ids": True}, False),
        ({"stream": True, "n": 2}, False),
        ({"stream": True, "prompt": ["a", "b"]}, False),
        ({"stream": True, "prompt": [[1], [2]]}, False),
        ({"stream": True, "prompt": [[1, 2]]}, True),
        ({"stream": True, "prompt": [1, 2]}, True),
        ({"stream": True, "use_beam_search": True}, False),
        ({"stream": True, "echo": True}, False),
        ({"stream": True, "echo": False}, True),
        ({"stream": True, "messages": [], "echo": True}, True),
        ({"stream": True, "logprobs": 1, "prompt_logprobs": 0}, False),
        ({"stream": True, "include_reasoning": False}, False),
        ({"stream": True, "include_reasoning": True}, True),
    ],
)
def test_ids_are_asked_for_only_where_they_help_and_were_not_asked_for(
    body: dict[str, object], hides: bool
) -> None:
    """Answers of one choice get token ids added and cut out again; others are left alone."""
    request = parsed(body)

    assert request.hides_ids == hides
    assert (request.body_ids != request.body) == hides


@pytest.mark.parametrize(
    ("body", "headers", "name"),
    [
        ({}, {}, "normal"),
        ({}, {"X_Llumnix_Class": "batch"}, "batch"),
        ({}, {"X_Request_Priority": "high"}, "high"),
        ({"service_tier": "priority"}, {}, "high"),
        ({"service_tier": "auto"}, {}, "normal"),
        ({"priority": -1}, {}, "high"),
        ({"priority": 0}, {}, "normal"),
        ({"priority": 5}, {}, "normal"),
        ({"priority": -1}, {"X_Llumnix_Class": "batch"}, "batch"),
    ],
)
def test_class_is_read_from_header_tier_or_priority(
    body: dict[str, object], headers: dict[str, str], name: str
) -> None:
    request = parsed(body, **headers)

    assert request.class_name == name
    assert CLASSES.names[request.class_index] == name


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    refusal = refused({}, X_Llumnix_Class="urgent")

    assert refusal.status == 400
    assert "high, normal, batch" in refusal.message


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": "x" * 40}, 10),
        ({"prompt": ["x" * 40, "x" * 4]}, 11),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"messages": [{"role": "user", "content": "x" * 40}]}, 14),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 40}]}]}, 14),
        ({"messages": [{"role": "user", "content": None}]}, 4),
        ({"messages": "nonsense"}, 1),
        ({"messages": [7]}, 4),
        ({"prompt": None}, 1),
        ({}, 1),
    ],
)
def test_prompt_size_is_counted_or_estimated(body: dict[str, object], tokens: int) -> None:
    assert parsed(body).prompt_tokens == tokens


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"\xff\xfe{}",
        b'{"a":' * 100_000,
        {"max_tokens": -1},
        {"max_completion_tokens": -5},
        {"model": 7},
    ],
)
def test_what_cannot_be_meant_is_refused(body: object) -> None:
    assert refused(body).status == 400


@pytest.mark.parametrize("name", ["llumnix", "llumnix_request"])
def test_a_forged_field_of_ours_is_taken_out(name: str) -> None:
    """Resuming and tagging are ours: a client's own field goes, its other parameters stay."""
    body = {"prompt": "\ud800", "kv_transfer_params": {name: {"request_id": "x"}, "other": 1}}
    request = parsed(body)

    assert request.forged
    assert json.loads(request.body)["kv_transfer_params"] == {"other": 1}


def test_a_forged_field_is_found_under_any_spelling() -> None:
    raw = b'{"kv\\u005ftransfer_params":{"llumn\\u0069x":{}}}'

    assert json.loads(parsed(raw).body) == {"kv_transfer_params": {}}


@pytest.mark.parametrize(
    "raw",
    [b'{"a":1}', b'{"kv_transfer_params":{"b":2}}', b'{"kv\\u005ftransfer_params":{"b":2}}'],
)
def test_our_fields_stand_beside_what_the_client_gave(raw: bytes) -> None:
    body, forged = without_forged(raw, json.loads(raw))
    amid = "kv_transfer_params" in json.loads(raw)
    before = json.loads(raw)
    after = json.loads(with_transfer(body, {"llumnix": {"x": [1, None]}}, amid=amid))

    assert not forged
    assert after["kv_transfer_params"].pop("llumnix") == {"x": [1, None]}
    assert after["kv_transfer_params"] == before.get("kv_transfer_params", {})


def test_a_clients_request_id_is_kept_unless_it_is_in_use_or_odd() -> None:
    for wanted in ("mine-1", "Root=1-67891233-abcdef012345;Self=1-x", "aGk+/w==", "x" * 256):
        assert request_id(wanted, {}) == wanted
        made = request_id(wanted, {wanted: 0})
        assert made != wanted
        assert made[:200] == wanted[:200] or made.startswith(wanted + "~")
        assert len(made) <= 256
    for odd in (None, "", "a b", "x" * 257, "a\nb", "é"):
        assert len(request_id(odd, {})) == 24
