"""Responses that are not streamed: forwarded whole, fetched from wherever the request moved."""

import json
import re
from typing import Any, Literal

from aiohttp import web

from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.claim import Claims
from llumnix.frontend.moves.route import Route
from llumnix.frontend.request.headers import to_client
from llumnix.frontend.request.location import as_clients_see
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.leg_filter import hider
from llumnix.frontend.splicing.logprobs import KeptTokens
from llumnix.frontend.splicing.sse import ClaimRefused, Redirect

_COMPLETION_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


class AnswerRelay:
    """Follows one request until it has its response.

    The client has seen none of it, so the last instance's response is the response; only the
    log-probabilities of tokens that it did not compute itself are restored from the responses that
    ended in a redirect.
    """

    def __init__(self, context: ServingContext, route: Route, claims: Claims) -> None:
        self._context = context
        self._route = route
        self._claims = claims
        self._kept = KeptTokens()

    async def settle(self, answer: UpstreamAnswer) -> UpstreamAnswer | Refusal:
        """Return the final response, or the reason why there is none."""
        while (how := _let_go(answer)) is not None:
            opened = await self._next(how)
            if isinstance(opened, Refusal):
                return opened
            if isinstance(opened, Leg):
                opened.close()
                message = f"{opened.instance.id} streams a response that should be whole"
                return Refusal(502, message, "bad_gateway")
            answer = opened
        self._claims.prove()
        return self._completed(answer)

    async def _next(self, how: Redirect | ClaimRefused) -> Leg | UpstreamAnswer | Refusal:
        opened: Leg | UpstreamAnswer | Refusal | None = None
        if isinstance(how, Redirect) and how.migration_id is not None:
            self._kept.keep(how.choice, 0)
            self._claims.prove()
            self._route.migrated(how.migration_id)
            opened = await self._claims.follow(how.migration_id, patient=True)
        elif self._claims.unproven:
            self._claims.fail(self._failure(how))
        elif isinstance(how, ClaimRefused):
            opened = self._route.broke(self._failure(how))
        else:
            opened = self._route.requeued()
        if opened is None:
            opened = await self._route.open(self._kept.after([]) or None)
            self._claims.close()
        return opened

    def _failure(self, how: Redirect | ClaimRefused) -> Failure:
        if isinstance(how, Redirect):
            return Failure(FailureKind.UNABLE, "it was sent back")
        self._context.tally.forged("resume_refused")
        message = f"the instance refused to resume the request: {how.reason}"
        return Failure(FailureKind.ANSWERED, message, 403)

    def _completed(self, answer: UpstreamAnswer) -> UpstreamAnswer | Refusal:
        """Restore what earlier responses say of their tokens, which must match this one's."""
        ids = self._kept.after([])
        if not ids or answer.status != 200:
            return answer
        parsed = json.loads(answer.body)
        choice = parsed["choices"][0]
        if (choice.get("token_ids") or [])[: len(ids)] != ids:
            self._context.tally.diverged()
            message = "the response could not be resumed: token ids differ"
            return Refusal(502, message, "mismatch")
        if not self._kept.end:
            return answer
        self._kept.restore(choice, 0)
        text = json.dumps(parsed, separators=(",", ":"), ensure_ascii=False)
        body = text.encode("utf-8", "backslashreplace")
        return UpstreamAnswer(answer.status, answer.headers, body, answer.instance)


def response(answer: UpstreamAnswer, request_id: str, *, request: ClientRequest) -> web.Response:
    """Build the client's response: the instance's, byte for byte, less the token ids we added."""
    headers = to_client(answer.headers, request_id, streams=True)
    as_clients_see(headers, [answer.instance])
    body = hider(answer.instance, asked=request.asks_ids(answer.instance))(answer.body)
    return web.Response(status=answer.status, headers=headers, body=body)


def outcome(answer: UpstreamAnswer) -> Literal["finished", "rejected"]:
    """Return the outcome that a response counts as; server errors never get here."""
    return "finished" if answer.status < 400 else "rejected"


def output_tokens(answer: UpstreamAnswer) -> int:
    """Count the output tokens that a response reports."""
    found = _COMPLETION_TOKENS.search(answer.body)
    return int(found.group(1)) if found else 0


def _let_go(answer: UpstreamAnswer) -> Redirect | ClaimRefused | None:
    if answer.status != 200 or not answer.instance.plugged or not sse.lets_go(answer.body):
        return None
    try:
        parsed: Any = json.loads(answer.body)
    except ValueError:
        return None
    return sse.outcome_of(parsed if isinstance(parsed, dict) else None)
