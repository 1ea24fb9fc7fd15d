"""A body's model is found without parsing it."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.frontend.paths.peek import FormReader, read_members, read_model

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
        assert members(raw).get("model") == told


def members(raw: bytes) -> Any:
    return asyncio.run(read_members(raw)).values


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"[1]", b'{"model":', b"\xff\xfe", b"{}"])
def test_there_is_no_member_in_what_is_no_object(raw: bytes) -> None:
    assert members(raw) == {}


def test_the_last_of_equal_names_counts() -> None:
    assert members(b'{"model":"a","model":"b"}') == {"model": "b"}


@pytest.mark.parametrize("before", [0, 131_050, 131_072, 262_144 - 20])
def test_a_member_is_found_wherever_a_large_body_has_it(before: int) -> None:
    """Also across the cuts between the slices in which it is read."""
    raw = b'{"input":"' + b"x" * before + b'","model":"m","stream":true}'

    assert members(raw) == {"model": "m", "stream": True}


def test_an_image_is_no_text() -> None:
    raw = b'{"input":"' + b"some words " * 100 + b'","image":"' + b"A" * 1_000_000 + b'"}'

    assert asyncio.run(read_members(raw)).text_bytes < 20_000


async def test_a_large_body_holds_up_nobody() -> None:
    raw = b'{"model":"m","input":[' + b'{"a":1},' * 1_000_000 + b"1]}"
    reading = asyncio.ensure_future(read_members(raw))
    turns, longest_s = 0, 0.0
    while not reading.done():
        began_at = time.thread_time()
        await asyncio.sleep(0)
        turns, longest_s = turns + 1, max(longest_s, time.thread_time() - began_at)

    assert (await reading).model == "m"
    assert turns > 30
    assert longest_s < 0.1


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
        [("file", b"--xyz" * 9), ("model_version", b"no"), ("model", b"w")],
    ],
    ids=["before", "after", "alike"],
)
def test_the_model_of_a_form_is_found_however_it_arrives(parts: list[tuple[str, bytes]]) -> None:
    form = _form(*parts)
    for size in (1, 7, len(form)):
        reader = FormReader('multipart/form-data; boundary="xyz"')
        seen = [reader.model(form[:end]) for end in range(size, len(form) + size, size)]
        assert seen[-1] == "w"
        assert set(seen) <= {None, "w"}


def test_a_form_without_a_boundary_names_no_model() -> None:
    assert FormReader("multipart/form-data").model(_form(("model", b"w"))) is None


async def test_the_model_of_a_plain_form_is_found() -> None:
    kind = "application/x-www-form-urlencoded"

    assert await read_model(kind, b"a=1&model=org%2Fm") == "org/m"
