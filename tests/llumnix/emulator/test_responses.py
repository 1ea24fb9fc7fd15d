"""The shapes answers are written in."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from llumnix.emulator.model.kv import KvPool
from llumnix.emulator.model.vocabulary import END_ID, FIRST_WORD_ID, TEXT, decode
from llumnix.emulator.openai import Call, CallKind
from llumnix.emulator.requests import EmulatedRequest, FinishReason, Sampling
from llumnix.emulator.responses import StreamWriter, usage_of, whole_answer
from policies.types import RequestId

TABLE = KvPool(1, 16, 8).table()


def make_call(kind: CallKind, stop: tuple[str, ...] = (), *, ids: bool = True) -> Call:
    return Call(kind, (1,), Sampling(8, stop=stop), True, True, ids, None)


def writer(call: Call) -> StreamWriter:
    return StreamWriter(call, "cmpl-x", "m", 1)


def test_a_completion_chunk_is_vllms_to_the_byte() -> None:
    """Compact, one token a chunk, the token ids last."""
    assert writer(make_call(CallKind.COMPLETION)).chunks([256], None) == (
        'data: {"id":"cmpl-x","object":"text_completion","created":1,"model":"m",'
        f'"choices":[{{"index":0,"text":"{TEXT[256]}","logprobs":null,"finish_reason":null,'
        '"stop_reason":null,"token_ids":[256]}]}\n\n'
    )


def test_a_chat_chunk_is_vllms_to_the_byte() -> None:
    """The same, with a delta."""
    call = make_call(CallKind.CHAT, ids=False)
    assert writer(call).chunks([256], FinishReason("length")) == (
        'data: {"id":"cmpl-x","object":"chat.completion.chunk","created":1,"model":"m",'
        f'"choices":[{{"index":0,"delta":{{"content":"{TEXT[256]}"}},"logprobs":null,'
        '"finish_reason":"length","stop_reason":null}]}\n\n'
    )


def test_a_chat_opens_with_its_role() -> None:
    """A completion has no such chunk."""
    (choice,) = parsed(writer(make_call(CallKind.CHAT)).opening())[0]["choices"]
    assert choice["delta"] == {"role": "assistant", "content": ""}
    assert list(choice)[-1] == "token_ids"
    assert choice["token_ids"] == []
    assert writer(make_call(CallKind.COMPLETION)).opening() == ""


def test_a_redirect_follows_the_last_token() -> None:
    """A chunk of its own, without text or tokens."""
    chunks = parsed(
        writer(make_call(CallKind.COMPLETION)).chunks([256], FinishReason("abort", "migrate:m1"))
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "abort"]
    last = chunks[-1]["choices"][0]
    assert (last["text"], last["token_ids"], last["stop_reason"]) == ("", [], "migrate:m1")


def test_usage_comes_without_choices() -> None:
    """As OpenAI has it."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    (chunk,) = parsed(writer(make_call(CallKind.COMPLETION)).usage(usage))
    assert (chunk["choices"], chunk["usage"]) == ([], usage)


@given(
    tokens=st.lists(st.integers(FIRST_WORD_ID, END_ID - 1), min_size=1, max_size=8),
    cuts=st.lists(st.integers(0, 8)),
    stop_at=st.integers(0, 40),
    stop_length=st.integers(1, 12),
    kind=st.sampled_from(CallKind),
    stops=st.booleans(),
)
def test_a_streamed_answer_is_the_whole_answer(
    tokens: list[int], cuts: list[int], stop_at: int, stop_length: int, kind: CallKind, stops: bool
) -> None:
    """Text, ids, finish and usage agree, however the stream was cut and wherever it stopped."""
    stop = decode(tokens)[stop_at : stop_at + stop_length] if stops else ""
    call = make_call(kind, (stop, "never") if stop else ())
    request = EmulatedRequest(RequestId("x"), 0, [1], (), call.sampling, TABLE)
    while request.finish is None and tokens:
        request.accept(tokens.pop(0))
    request.end(FinishReason("length"))
    assert request.finish is not None
    outputs = request.outputs
    stream = writer(call)
    edges = [0, *sorted(cut for cut in cuts if cut < len(outputs)), len(outputs)]
    text = "".join(
        stream.chunks(outputs[a:b], request.finish if b == len(outputs) else None)
        for a, b in itertools.pairwise(edges)
        if a < b
    )
    choices = [chunk["choices"][0] for chunk in parsed(text)]
    whole = json.loads(whole_answer(call, request, "cmpl-x", "m", 1))
    choice = whole["choices"][0]
    assert "".join(map(text_of, choices)) == text_of(choice)
    assert [token for one in choices for token in one["token_ids"]] == choice["token_ids"]
    assert len(choices) == len(outputs)
    for key in ("finish_reason", "stop_reason"):
        assert choices[-1][key] == choice[key]
        assert all(one[key] is None for one in choices[:-1])
    assert whole["usage"] == usage_of(request)
    if stop and choice["finish_reason"] == "stop":
        assert stop not in text_of(choice)


def test_the_end_token_has_no_text() -> None:
    """It is counted and listed, not written."""
    (chunk,) = parsed(writer(make_call(CallKind.COMPLETION)).chunks([END_ID], FinishReason("stop")))
    assert (chunk["choices"][0]["text"], chunk["choices"][0]["token_ids"]) == ("", [END_ID])


def parsed(stream: str) -> list[dict]:  # type: ignore[type-arg]
    events = stream.split("\n\n")
    assert events.pop() == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text_of(choice: dict) -> str:  # type: ignore[type-arg]
    if "text" in choice:
        return str(choice["text"])
    return str((choice.get("delta") or choice["message"])["content"])
