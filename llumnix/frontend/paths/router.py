"""What a client asks of instances, path by path."""

from dataclasses import replace

from aiohttp import web

from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.access.door import own_visit
from llumnix.frontend.bodies.broken import BrokenBody
from llumnix.frontend.context import ServingContext
from llumnix.frontend.paths.attempts import Attempts, Patience
from llumnix.frontend.paths.body import Body
from llumnix.frontend.paths.choices import AtHome, ByLoad, ByTurn, InTurn
from llumnix.frontend.paths.cors import Cors, is_preflight
from llumnix.frontend.paths.dialect import error_response
from llumnix.frontend.paths.exchange import Asked, headers_for, may_do_better
from llumnix.frontend.paths.immovable.entry import Immovable
from llumnix.frontend.paths.immovable.stored import StoredResponses
from llumnix.frontend.paths.models import own_answer
from llumnix.frontend.paths.peek import Peek, query_field
from llumnix.frontend.paths.table import Destination, PathKind, Paths
from llumnix.frontend.paths.websocket import pass_websocket, wants_websocket
from llumnix.frontend.request.headers import CLASS, REQUEST_ID
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import class_of
from llumnix.frontend.request_log import own_account
from llumnix.frontend.resuming import serve_resumable
from llumnix.frontend.serving import (
    Facts,
    arrived,
    inadmissible,
    tracked,
    turned_away,
    unknown_model,
)

_BYTES_PER_TOKEN = 4
_RESPONSES_REMEMBERED = 100_000
_FORM_TOKENS = 1500
"""What half a minute of audio makes; a file's length says nothing of it."""
_MEDIA = ("multipart/", "audio/", "image/", "video/")
_ROOM_TOKENS = 2048
"""The most room that one such request waits for: its inputs are computed one after another."""
_UNSTREAMED = "what this path computes cannot be moved"
_CONVERSATION = "a WebSocket is a connection with one server"
_SAFE = ("GET", "HEAD", "OPTIONS")


class Router:
    """Serves every path that instances answer."""

    def __init__(self, context: ServingContext, cors: Cors) -> None:
        self._context = context
        self._config = context.config
        self._paths = Paths(self._config.allow_paths, self._config.base_path)
        self._stored = StoredResponses(context.fleet.instances, _RESPONSES_REMEMBERED)
        self._immovable = Immovable(context, self._stored)
        self._turns = ByTurn()
        self._cors = cors

    async def serve(self, http: web.Request) -> web.StreamResponse:
        """Serve a request as its path demands."""
        if is_preflight(http) and (told := self._cors.preflight(http)) is not None:
            return told
        destination = self._table().look_up(http.method, http.rel_url.raw_path)
        query = http.rel_url.raw_query_string
        target = f"{destination.path}?{query}" if query else destination.path
        try:
            answered = await self._serve(http, destination, target)
        except BrokenBody as error:
            answered = error.refusal()
        if not isinstance(answered, Refusal):
            return answered
        account = own_account()
        account.cause = account.cause or answered.cause()
        return error_response(answered, destination.dialect)

    def _table(self) -> Paths:
        """Return the table of paths as it is configured now."""
        config = self._context.config
        if config is not self._config:
            self._config, self._paths = config, Paths(config.allow_paths, config.base_path)
        return self._paths

    async def _serve(
        self, http: web.Request, destination: Destination, target: str
    ) -> web.StreamResponse | Refusal:
        if destination.kind is PathKind.REFUSED:
            return _not_open(http, destination)
        if destination.kind is PathKind.OWN:
            return own_answer(self._context, destination.path)
        if destination.kind is PathKind.COMPLETION:
            return await serve_resumable(self._context, http, target)
        if wants_websocket(http):
            return await self._converse(http, target)
        limit = self._context.config.body_limit_bytes
        with Body(http, self._context.intake.holding(), limit) as body:
            if destination.kind is PathKind.GENERATION:
                return await self._immovable.serve(http, destination, target, body)
            asked = Asked(http, target, body, headers_for(http))
            if destination.kind is PathKind.ENGINE:
                return await self._compute(asked, destination)
            if destination.kind is PathKind.RESPONSE:
                return await self._about_response(asked, destination)
            return await self._pass(asked, destination)

    async def _compute(
        self, asked: Asked, destination: Destination
    ) -> web.StreamResponse | Refusal:
        """Have an engine compute something that is not generated token by token."""
        context, http = self._context, asked.http
        arrived(context, http)
        read = await self._who(asked)
        if isinstance(read, Refusal):
            turned_away(context, read)
            return read
        seen, class_name = read

        tokens = _tokens(http)

        async def work(active: ActiveRequest) -> tuple[web.StreamResponse, str]:
            asked.headers[REQUEST_ID] = active.request_id
            asked.headers[CLASS] = class_name
            told = replace(asked, shown_id=active.shown_id, waiting=active)
            index = context.classes.names.index(class_name)
            choose = ByLoad(context, active, index, seen.model, min(tokens, _ROOM_TOKENS))
            patience = Patience(may_do_better, repeats=True)
            attempts = Attempts(context, told, patience, active.request_id)
            answered = await attempts.pass_on(choose)
            if isinstance(answered, Refusal):
                outcome = "rejected" if answered.status == 503 else "failed"
                active.account.cause = answered.cause()
                return error_response(answered, destination.dialect), outcome
            return answered, "finished" if answered.status < 400 else "rejected"

        return await tracked(context, Facts(class_name, seen.model, tokens, _UNSTREAMED), work)

    async def _who(self, asked: Asked) -> tuple[Peek, str] | Refusal:
        """Return what the body says, and the request's class."""
        classes = own_visit().classes(self._context.classes)
        class_name = class_of(asked.http.headers, {}, classes)
        if isinstance(class_name, Refusal):
            return class_name
        try:
            seen = await asked.body.read_until_settled()
        except BrokenBody as error:
            return error.refusal()
        refusal = await inadmissible(self._context, seen.model, _tokens(asked.http))
        return refusal or (seen, class_name)

    async def _pass(self, asked: Asked, destination: Destination) -> web.StreamResponse | Refusal:
        """Pass a request on to an instance of its model, or to any if it names none."""
        model = query_field(asked.http.rel_url.raw_query_string.encode(), "model")
        if destination.kind is PathKind.MODEL:
            model = (await asked.body.read_until_settled()).model or model
            unknown = await unknown_model(self._context, model)
            if unknown is not None:
                return unknown
        elif model is not None and not self._context.fleet.serves(model):
            model = None
        safe = destination.known or asked.http.method in _SAFE
        patience = Patience(may_do_better if safe else _never, repeats=safe)
        with InTurn(self._context, self._turns, model) as choose:
            return await Attempts(self._context, asked, patience).pass_on(choose)

    async def _converse(self, http: web.Request, target: str) -> web.StreamResponse | Refusal:
        """Connect a WebSocket with an instance of the model that its query names, if it does."""
        context = self._context
        arrived(context, http)
        model = query_field(http.rel_url.raw_query_string.encode(), "model")
        class_name = class_of(http.headers, {}, own_visit().classes(context.classes))
        refusal = (
            class_name if isinstance(class_name, Refusal) else await unknown_model(context, model)
        )
        if refusal is not None:
            turned_away(context, refusal)
            return refusal

        async def work(active: ActiveRequest) -> tuple[web.StreamResponse, str]:
            with InTurn(context, self._turns, model, active) as choose:
                answered = await pass_websocket(context, http, target, choose)
            if isinstance(answered, Refusal):
                active.account.cause = answered.cause()
                return answered.response(), "rejected" if answered.status < 500 else "failed"
            return answered, "finished"

        assert isinstance(class_name, str), "refused above"
        return await tracked(context, Facts(class_name, model, 0, _CONVERSATION), work)

    async def _about_response(
        self, asked: Asked, destination: Destination
    ) -> web.StreamResponse | Refusal:
        """Pass on what is asked about a stored response to the instance that stores it."""
        home = self._stored.home(destination.path.split("/")[3])
        patience = Patience(_never if home is not None else _is_404, repeats=True)
        attempts = Attempts(self._context, asked, patience)
        return await attempts.pass_on(AtHome(self._context, home))


def _tokens(http: web.Request) -> int:
    """Estimate the tokens of a body by its length, which is all that is known of it."""
    estimate = (http.content_length or 0) // _BYTES_PER_TOKEN
    return max(1, min(estimate, _FORM_TOKENS) if http.content_type.startswith(_MEDIA) else estimate)


def _never(_status: int) -> bool:
    return False


def _is_404(status: int) -> bool:
    return status == 404 or may_do_better(status)


def _not_open(http: web.Request, destination: Destination) -> Refusal:
    where = f"{http.method} {destination.path}"
    how = "add it to frontend.allow_paths to open it"
    if destination.known:
        return Refusal(403, f"{where} is not open to clients: {how}", "path_not_open")
    return Refusal(404, f"there is no {where}; if instances have it, {how}", "not_found")
