"""Answers to `Expect: 100-continue`, which clients send before large bodies."""

from aiohttp import HttpVersion11, web

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def answer_expect(http: web.Request) -> None:
    """Let the client go on with its body; refuse any other expectation with a 417.

    aiohttp's own handler repeats what was expected, and fails where that is no text.
    """
    if http.version < HttpVersion11:
        return
    if http.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed(text="only 100-continue can be expected")
    await http.writer.write(_CONTINUE)
    # What was written is no part of the response, whose head must still be sent.
    http.writer.output_size = 0


def install_expect(app: web.Application) -> None:
    """Answer so on all routes of an application."""
    for route in app.router.routes():
        route._expect_handler = answer_expect  # noqa: SLF001 - else given route by route
