"""Token ids are hidden and counted as by the plain regular expressions that say what is meant."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from llumnix.frontend.splicing import sse

NULLED = re.compile(rb'("(?:prompt_)?token_ids":)\[[^\]]*\]')
REMOVED = re.compile(rb',"(?:prompt_)?token_ids":(?:null|\[[^\]]*\])')
COUNTED = re.compile(rb'"token_ids":\[([^\]]+)\]')

PIECES = st.one_of(
    st.sampled_from(
        [
            *(b',"token_ids":', b'"prompt_token_ids":', b',"prompt_token_ids":', b'token_ids":'),
            *(b"[1,2]", b"[", b"]", b"[]", b"null", b",", b'"', b'\\"', b'"text":" hi"'),
        ]
    ),
    st.binary(max_size=4),
)
DATA = st.lists(PIECES, max_size=16).map(b"".join)


@given(DATA)
@settings(max_examples=300, deadline=None)
def test_lists_are_nulled(data: bytes) -> None:
    assert sse.with_token_ids_nulled(data) == NULLED.sub(rb"\1null", data)


@given(DATA)
@settings(max_examples=300, deadline=None)
def test_members_are_removed(data: bytes) -> None:
    assert sse.without_token_ids(data) == REMOVED.sub(b"", data)


@given(DATA)
@settings(max_examples=300, deadline=None)
def test_ids_are_counted(data: bytes) -> None:
    expected = sum(ids.count(b",") + 1 for ids in COUNTED.findall(data))
    assert sse.count_token_ids(data) == expected
