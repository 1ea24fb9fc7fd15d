"""A body's model is found without parsing it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.paths.peek import Peek, member, peek

_KEYS = st.sampled_from(["model", "input", 'a"b', 'x","model":"no', "\\"])
_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just('{"model":"inner"}'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_KEYS, _VALUES), st.sampled_from([None, 0, 2]), st.booleans(), st.booleans())
def test_a_member_is_what_parsing_would_say(
    parsed: dict[str, Any], indent: int | None, ascii_only: bool, model: bool
) -> None:
    if model:
        parsed = {**parsed, "model": "outer"}
    raw = json.dumps(parsed, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    told = json.loads(raw).get("model")
    simple = isinstance(told, str | int | None)

    if model or (simple and told is not None):
        assert member(raw, "model") == told


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"[1]", b'{"model":', b"\xff\xfe", b"{}"])
def test_there_is_no_member_in_what_is_no_object(raw: bytes) -> None:
    assert member(raw, "model") is None


def test_the_last_of_equal_names_counts() -> None:
    assert member(b'{"model":"a","model":"b"}', "model") == "b"


def _form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        b'--xyz\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name.encode(), value)
        for name, value in parts
    )
    return body + b"--xyz--\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [("model", b"w"), ("file", b"\r\n\r\n" * 9)],
        [("file", b'name="model"\r\n\r\nno\r\n'), ("model", b"w")],
    ],
)
def test_the_model_of_a_form_is_found_before_and_after_its_file(
    parts: list[tuple[str, bytes]],
) -> None:
    kind = 'multipart/form-data; boundary="xyz"'

    assert peek(kind, _form(*parts), whole=True) == Peek("w", settled=True)


def test_a_form_is_settled_as_soon_as_its_model_is_there() -> None:
    data = _form(("model", b"w"), ("file", b"x" * 99))[:-50]

    assert peek("multipart/form-data; boundary=xyz", data, whole=False).settled


def test_a_body_that_is_neither_is_not_waited_for() -> None:
    assert peek("audio/wav", b"", whole=False) == Peek(None, settled=True)
