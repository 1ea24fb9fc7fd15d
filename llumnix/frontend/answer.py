"""Answers that are not streamed: forwarded whole, and fetched where their request has gone."""

import json
import re
from typing import Literal

from aiohttp import web

from llumnix.frontend import sse
from llumnix.frontend.headers import to_client
from llumnix.frontend.openai import Refusal
from llumnix.frontend.route import Route
from llumnix.frontend.sse import Redirect
from llumnix.frontend.upstream import Answer, Leg

_COMPLETION_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


async def settle(route: Route, answer: Answer) -> Answer | Refusal:
    """Follow a request until it is answered; nobody has seen any of it, so nothing is spliced."""
    while (redirect := _redirect_in(answer)) is not None:
        refusal = None
        if redirect.migration_id is None:
            refusal = route.requeued()
        else:
            route.migrated(redirect.migration_id)
        if refusal is not None:
            return refusal
        opened = await route.open(None)
        if isinstance(opened, Refusal):
            return opened
        if isinstance(opened, Leg):
            opened.close()
            return Refusal(502, f"{opened.instance.id} streams what should be whole", "bad_gateway")
        answer = opened
    return answer


def response(answer: Answer, request_id: str) -> web.Response:
    """Give a client an instance's answer, byte for byte."""
    headers = to_client(answer.headers, request_id, streams=True)
    return web.Response(status=answer.status, headers=headers, body=answer.body)


def outcome(answer: Answer) -> Literal["finished", "rejected"]:
    """Say how an answer counts; server errors never get here."""
    return "finished" if answer.status < 400 else "rejected"


def output_tokens(answer: Answer) -> int:
    """Count the output tokens an answer says it has."""
    found = _COMPLETION_TOKENS.search(answer.body)
    return int(found.group(1)) if found else 0


def _redirect_in(answer: Answer) -> Redirect | None:
    if answer.status != 200 or sse.REDIRECT_MARK not in answer.body:
        return None
    try:
        parsed = json.loads(answer.body)
    except ValueError:
        return None
    return sse.redirect_of(parsed if isinstance(parsed, dict) else None)
