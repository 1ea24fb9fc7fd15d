"""Seams within a character: the second server has not seen its beginning, and says nonsense."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.outcome import Failure
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.continuation import Continuation
from llumnix.frontend.moves.server_calls import ServerCalls
from llumnix.frontend.request.request import Classes, ClientRequest, parse
from llumnix.frontend.splicing.leg_filter import LegFilter
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.splice import Diverged
from llumnix.frontend.splicing.transcript import read
from llumnix.instances.endpoints.endpoint import Endpoint
from llumnix.instances.instance import VLLM, Identity, Instance, InstanceKind
from policies.types import InstanceId
from tests.llumnix.frontend.splicing.chunks import DONE, event, text_of

TEXT = "déjà vu 日本🦊!"
TOKENS = [bytes([one]) for one in TEXT.encode()]


class FakeHelper:
    """Decodes token ids that are bytes; `knows` is False for a server that does not."""

    knows = True

    async def output_text(
        self, target: Instance, prompt: Sequence[int], ids: Sequence[int], timeout_s: float
    ) -> str | None:
        return bytes(ids).decode(errors="replace") if self.knows else None


class FakeLeg:
    """A leg whose bytes are all there."""

    def __init__(self, first: bytes, rest: list[bytes]) -> None:
        identity = Identity(InstanceId("b"), InstanceKind.UNTOUCHED, engine=VLLM)
        self.instance = Instance(Endpoint.at("http://b"), InstanceId("b"), identity)
        self.first = first
        self._rest = rest

    async def read(self) -> bytes:
        return self._rest.pop(0) if self._rest else b""


def chunk(words: str, ids: Sequence[int], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": words, "finish_reason": finish, "stop_reason": None}
    return event({"id": "x", "choices": [{**choice, "token_ids": list(ids), **more}]})


def streamed(first: int, after: int) -> list[bytes]:
    """Write what a server streams for these tokens: characters when they are complete."""
    out, sent = [], TEXT.encode()[:first].decode(errors="ignore")
    for place in range(first, after):
        whole = TEXT.encode()[: place + 1].decode(errors="ignore")
        fresh, sent = whole[len(sent) :], whole
        finish = "length" if place == len(TOKENS) - 1 else None
        more = {"prompt_token_ids": [7]} if place == 0 else {}
        out.append(chunk(fresh, TOKENS[place], finish, **more))
    return out


def asked(**more: Any) -> ClientRequest:
    body = b'{"prompt":"x","stream":true,"max_tokens":99'
    body += b"".join(b',"%b":%b' % (k.encode(), v) for k, v in more.items()) + b"}"
    request = parse("/v1/completions", body, {}, Classes(("c",), "c"))
    assert isinstance(request, ClientRequest)
    return request


async def carry(
    cut: int, replies: list[bytes], helper: FakeHelper | None = None, **more: Any
) -> LegFilter | Failure:
    had = read(b"".join(streamed(0, cut)))
    ids = list(TEXT.encode()[:cut])
    made = Continuation(
        FrontendConfig(), asked(**more), cast("ServerCalls", helper or FakeHelper())
    )
    assert made.by_graft(had, ids)
    leg = FakeLeg(replies[0], replies[1:])
    strand = await made.strand(cast("Leg", leg), had, KeptTokens(), ids)
    if isinstance(strand, LegFilter):
        leg.rest = [leg.first, *leg._rest]  # type: ignore[attr-defined]
        strand.told = b"".join(map(strand.feed, leg.rest))  # type: ignore[attr-defined]
    return strand


@pytest.mark.parametrize("cut", range(1, len(TOKENS)))
@pytest.mark.parametrize("nonsense", ["", "\ufffd", "the whole prompt and then some"])
async def test_a_stream_cut_anywhere_is_the_same_text(cut: int, nonsense: str) -> None:
    """The first text of a server that began within a character is replaced, whatever it is."""
    replies = streamed(cut, len(TOKENS))
    within = TEXT.encode()[:cut].decode(errors="replace").endswith("\ufffd")
    if within:
        complete = next(i for i, one in enumerate(replies) if b'"text":""' not in one)
        ids = TOKENS[cut + complete]
        finish = "length" if cut + complete == len(TOKENS) - 1 else None
        replies[complete] = chunk(nonsense or "x", ids, finish)
    strand = await carry(cut, [*replies, DONE])
    assert isinstance(strand, LegFilter)
    got = b"".join(streamed(0, cut)) + strand.told  # type: ignore[attr-defined]

    assert text_of(got) == TEXT


async def test_a_server_that_ends_within_a_character_has_failed() -> None:
    strand = await carry(2, [chunk("", [])])

    assert isinstance(strand, Failure)


async def test_stop_strings_need_a_server_that_decodes() -> None:
    """What the first server held back is known by its token ids alone."""
    deaf = FakeHelper()
    deaf.knows = False
    rest = [*streamed(1, len(TOKENS)), DONE]

    assert isinstance(await carry(1, list(rest), deaf), LegFilter)
    assert isinstance(await carry(1, list(rest), deaf, stop=b'"zz"'), Failure)


async def test_another_text_is_an_error() -> None:
    had = read(chunk("other", TEXT.encode()[:3], prompt_token_ids=[7]))
    made = Continuation(FrontendConfig(), asked(), cast("ServerCalls", FakeHelper()))
    leg = cast("Leg", FakeLeg(chunk("x", [1]), []))

    with pytest.raises(Diverged):
        await made.strand(leg, had, KeptTokens(), list(TEXT.encode()[:3]))


async def test_a_parsers_channels_cannot_be_grafted() -> None:
    """A second server's parser begins in its first state, and would take the rest for reasoning."""
    choice = {"index": 0, "delta": {"reasoning": "hm"}, "token_ids": [1]}
    had = read(event({"prompt_token_ids": [7], "choices": [choice]}))
    made = Continuation(FrontendConfig(), asked(), cast("ServerCalls", FakeHelper()))

    assert not made.by_graft(had, [1])
