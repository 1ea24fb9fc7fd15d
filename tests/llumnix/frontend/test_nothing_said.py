"""Streams that fail before they say anything, or that say in an event that they have failed."""

import pytest

from tests.llumnix.frontend.splicing.chunks import DONE, full_text, text_of
from tests.llumnix.frontend.stage import Stage
from tests.llumnix.frontend.stub import TOKENS, Script

PING = b": ping\n\n"
SEVERAL = {"n": 2}  # cannot be carried on once begun


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("body", [{}, SEVERAL])
@pytest.mark.parametrize("plugged", [False, True])
@pytest.mark.parametrize("how", ["die", "leave", "fail"])
async def test_a_stream_that_only_opened_starts_afresh(
    chat: bool, body: dict[str, object], plugged: bool, how: str
) -> None:
    """A comment and the role, then nothing: any instance can answer, and the client sees one."""
    async with Stage(2, plugged=plugged) as stage:
        stage.stubs[0].scripts.append(Script(0, then=how, prelude=PING))
        stage.stubs[1].scripts.append(Script(created=9))
        got = await stage.stream(body, chat=chat)

        assert text_of(got) == full_text(TOKENS)
        assert got.count(b'"role"') == chat
        assert got.count(b"error") == 0
        assert got.endswith(DONE)
        assert (b'"created":1,' in got) != (b'"created":9,' in got)
        assert [len(stub.heard) for stub in stage.stubs] == [1, 1]
        assert "return_token_ids" not in body
        assert stage.stubs[1].heard[0].resume is None


async def test_a_server_that_only_ever_pings_is_not_asked_for_ever() -> None:
    """Pings are no progress: the attempts are counted."""
    async with Stage(1, max_attempts=3) as stage:
        stage.stubs[0].scripts.extend(Script(0, then="leave", prelude=PING) for _ in range(9))
        got = await stage.stream()

        assert b"3 attempts failed" in got
        assert len(stage.stubs[0].heard) == 3


@pytest.mark.parametrize("tokens", [1, 5])
async def test_a_stream_whose_server_says_it_failed_is_carried_on(tokens: int) -> None:
    """vLLM says so when its engine dies: to the client that is a death like any other."""
    async with Stage(2) as stage:
        stage.stubs[0].scripts.append(Script(tokens, then="fail"))
        got = await stage.stream()

        assert text_of(got) == full_text(TOKENS)
        assert b"engine died" not in got
        resume = stage.stubs[1].heard[0].resume
        assert resume is not None
        assert len(resume["output_token_ids"]) == tokens


async def test_what_cannot_be_carried_on_ends_in_the_servers_own_words() -> None:
    async with Stage(2) as stage:
        script = Script(3, then="fail")
        stage.stubs[0].scripts.append(script)
        got = await stage.stream(SEVERAL)

        assert got.endswith(script.error + DONE)
        assert not stage.stubs[1].heard


async def test_an_error_that_is_the_clients_fault_is_passed_on() -> None:
    error = b'data: {"error":{"message":"too long","code":400}}\n\n'
    async with Stage(2) as stage:
        stage.stubs[0].scripts.append(Script(3, then="fail", error=error))
        got = await stage.stream()

        assert got.endswith(error + DONE)
        assert not stage.stubs[1].heard
