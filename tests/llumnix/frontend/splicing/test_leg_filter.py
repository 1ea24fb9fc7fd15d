"""A leg of a stream as bytes: cut anywhere, redirected anywhere, joined without a seam."""

import json

import pytest

from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.leg_filter import LegFilter, Overlong, as_it_is
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.splice import Diverged, Splicer
from llumnix.frontend.splicing.sse import Redirect
from llumnix.frontend.splicing.transcript import Transcript, read
from tests.llumnix.frontend.splicing.chunks import DONE, Writer, event, full_text, text_of

TOKENS = 12


def strand(had: Transcript | None = None, *, hides: bool = True, plugged: bool = True) -> LegFilter:
    hide = sse.without_token_ids if hides and plugged else as_it_is
    return LegFilter(
        Splicer(had, KeptTokens()) if had is not None and had.events else None,
        plugged=plugged,
        hide=hide,
        event_limit_bytes=1 << 20,
    )


def pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("chat", [False, True])
def test_any_cut_of_a_stream_in_two_gives_the_same_bytes(chat: bool) -> None:
    """Wherever the network cuts a stream, the client gets the bytes it would get without us."""
    sent = b"".join(Writer(chat=chat, ids=True).stream(TOKENS))
    wanted = b"".join(Writer(chat=chat, ids=False).stream(TOKENS))
    for at in range(len(sent) + 1):
        leg = strand()
        got = leg.feed(sent[:at]) + leg.feed(sent[at:])
        assert wanted == got, at
        assert leg.end(cut_off=False) == b""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_any_piece_size_gives_the_same_bytes(size: int) -> None:
    sent = b"".join(Writer(ids=True).stream(TOKENS))
    leg = strand()
    got = b"".join(leg.feed(piece) for piece in pieces(sent, size))

    assert got == b"".join(Writer(ids=False).stream(TOKENS))


def test_only_whole_events_are_forwarded() -> None:
    """At every moment what the client has ends with a blank line: it can be cut over there."""
    sent = b"".join(Writer().stream(TOKENS))
    leg = strand()
    for piece in pieces(sent, 5):
        got = leg.feed(piece)
        assert got == b"" or got.endswith(b"\n\n")


ODD = (
    b': a comment\n\ndata:{"id" : "x",  "choices":[ {"text":"a\\u00e9\xc3\xa9"} ], '
    b'"unknown":{"k":[1]}}\n\n'
    b"event: ping\ndata: {}\n\nid: 7\r\ndata: line one\r\ndata: line two\r\n\r\n"
    b'data: {"choices":[{"text":",\\"token_ids\\":[1,2]","stop_reason":"x"}]}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("size", [1, 3, 50, 1000])
def test_bytes_that_are_not_ours_to_edit_pass_unchanged(size: int) -> None:
    """Odd spacing, comments, CRLF, unknown fields, text that looks like ids: byte for byte."""
    leg = strand()

    assert b"".join(leg.feed(piece) for piece in pieces(ODD, size)) == ODD


def test_ids_the_client_asked_for_are_left_in() -> None:
    sent = b"".join(Writer(ids=True).stream(TOKENS))

    assert strand(hides=False).feed(sent) == sent


def test_prompt_ids_are_cut_out_as_well() -> None:
    sent = b'data: {"choices":[{"text":"a","prompt_token_ids":[1,2],"token_ids":[3]}]}\n\n'
    null = b'data: {"choices":[{"text":"a","prompt_token_ids":null,"token_ids":[3]}]}\n\n'

    assert strand().feed(sent) == strand().feed(null) == b'data: {"choices":[{"text":"a"}]}\n\n'


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("moved_after", range(TOKENS + 1))
@pytest.mark.parametrize("merge", [1, 5, TOKENS])
def test_a_moved_stream_equals_one_that_stayed(chat: bool, moved_after: int, merge: int) -> None:
    """Redirect after any token, replay in chunks of any size, cut anywhere: the same text once."""
    writer, other = Writer(chat=chat), Writer(chat=chat, created=99)
    first = writer.opening() + b"".join(writer.tokens(i, i + 1) for i in range(moved_after))
    replay = b"".join(other.stream(TOKENS, merge))
    for size in (1, 17, 10_000):
        one = strand()
        got = b"".join(one.feed(p) for p in pieces(first + writer.redirect("m1"), size))
        assert one.let_go == Redirect("m1")
        had = read(one.ledger.raw())
        two = strand(had)
        got += b"".join(two.feed(p) for p in pieces(replay, size))

        assert text_of(got) == full_text(TOKENS)
        assert got.count(b'"finish_reason":"length"') == 1
        assert got.count(b'"role"') == (1 if chat else 0)
        assert got.endswith(DONE)
        assert b"migrate:" not in got
        assert b"token_ids" not in got
        if had.events:
            assert b'"created":99' not in got


def test_a_replay_is_skipped_by_characters_not_by_chunks() -> None:
    """The chunk in which old and new text meet is cut between two characters."""
    had = read(event({"id": "cmpl-r", "created": 1, "choices": [{"index": 0, "text": "abc"}]}))
    got = strand(had).feed(
        event({"id": "cmpl-r", "created": 2, "choices": [{"index": 0, "text": "abcdef"}]})
    )

    assert got == event({"id": "cmpl-r", "created": 1, "choices": [{"index": 0, "text": "def"}]})


def test_ids_the_client_asked_for_are_sent_once_each() -> None:
    writer = Writer()
    had = read(b"".join(writer.tokens(i, i + 1) for i in range(5)))
    got = strand(had, hides=False).feed(b"".join(writer.stream(TOKENS, merge=4)))

    assert read(got).token_ids == [1000 + 7 * i for i in range(5, TOKENS)]


def test_a_stream_may_move_again_and_again() -> None:
    """A → B → C → B, once while the replay is still being skipped: no character lost or doubled."""
    writer = Writer()
    had, got = Transcript(), b""
    for seen in (3, 2, 9, TOKENS):
        leg = strand(had)
        body = b"".join(writer.tokens(i, i + 1) for i in range(seen))
        last = writer.piece("", [], "stop") + DONE if seen == TOKENS else writer.redirect("m")
        got += leg.feed(body + last)
        now = read(leg.ledger.raw())
        had = max(had, now, key=Transcript.size)

    assert text_of(got) == full_text(TOKENS)


@pytest.mark.parametrize("wrong", range(6))
def test_a_replay_that_differs_is_detected(wrong: int) -> None:
    """One character changed anywhere in what the client has: no byte of it is passed off."""
    had = read(event({"choices": [{"text": "abcdef"}]}))
    other = "".join("X" if i == wrong else c for i, c in enumerate("abcdef")) + "more"
    with pytest.raises(Diverged):
        strand(had).feed(event({"choices": [{"text": other}]}))


def test_token_ids_that_differ_are_detected() -> None:
    had = read(event({"choices": [{"text": "a", "token_ids": [1]}]}))
    with pytest.raises(Diverged, match="token ids"):
        strand(had).feed(event({"choices": [{"text": "a", "token_ids": [2]}]}))


@pytest.mark.parametrize("end", [DONE, Writer().piece("", [], "stop")])
def test_a_replay_that_ends_too_early_is_detected(end: bytes) -> None:
    had = read(b"".join(Writer().tokens(i, i + 1) for i in range(4)))
    with pytest.raises(Diverged, match="short"):
        strand(had).feed(Writer().tokens(0, 3) + end)


def test_what_was_sent_already_is_not_sent_again_at_the_end() -> None:
    """Finish reason and usage reach the client once, even if it lost its instance after them."""
    writer = Writer()
    whole = b"".join(writer.stream(4)[:-1])
    had = read(whole + writer.usage(4))

    assert strand(had).feed(whole + writer.usage(4) + DONE) == DONE


def test_a_natural_stop_at_a_string_like_a_redirect_is_none() -> None:
    """A client may stop at "migrate:x"; only an aborted choice says that a request has moved."""
    sent = Writer(ids=False).piece("a", [], "stop", "migrate:x") + DONE
    leg = strand()

    assert leg.feed(sent) == sent
    assert leg.let_go is None


def test_an_untouched_server_cannot_redirect() -> None:
    sent = Writer(ids=False).redirect("m")
    leg = strand(plugged=False)

    assert leg.feed(sent) == sent
    assert leg.let_go is None


def test_an_endless_event_is_refused() -> None:
    leg = LegFilter(None, plugged=True, hide=as_it_is, event_limit_bytes=100)
    with pytest.raises(Overlong):
        leg.feed(b"data: " + b"x" * 200)


@pytest.mark.parametrize("chat", [False, True])
def test_tool_calls_are_joined_by_name_and_arguments(chat: bool) -> None:
    """Each server invents its own tool call ids: the client keeps the first, and one name."""

    def call(**function: str) -> bytes:
        header = {"id": "call-1", "type": "function"} if "name" in function else {}
        delta = {"tool_calls": [{"index": 0, **header, "function": function}]}
        return event({"choices": [{"index": 0, "delta": delta}]})

    had = read(call(name="look", arguments="") + call(arguments='{"at":'))
    replay = call(name="look", arguments="").replace(b"call-1", b"call-2") + call(
        arguments='{"at": 7}'
    )
    got = strand(had).feed(replay)

    assert json.loads(got[6:])["choices"][0]["delta"] == {
        "tool_calls": [{"index": 0, "function": {"arguments": " 7}"}}]
    }


@pytest.mark.parametrize(
    ("last", "cut_off", "plugged", "left"),
    [
        (DONE, False, True, b""),
        (DONE, True, True, b""),  # cut off after the end is no loss
        (b"data: [DONE]", False, True, b"data: [DONE]"),  # a last line without its blank one
        (b"data: {}\n\n", False, True, None),
        (b"data: {}\n\n", False, False, b""),  # not every server says [DONE]
        (b"data: {}\n\n", True, False, None),
        (b"data: {}", False, False, b"data: {}"),
    ],
)
def test_an_end_is_told_from_a_break(
    last: bytes, cut_off: bool, plugged: bool, left: bytes | None
) -> None:
    leg = strand(plugged=plugged)
    leg.feed(last)

    assert leg.end(cut_off=cut_off) == left
