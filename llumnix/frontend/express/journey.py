"""One express request, from its placement to its last byte.

While all goes as it nearly always does, an instance's whole answer is forwarded from within the
read that completes it. A stream, and whatever goes wrong, is carried on by a task, with the
machinery that every other request has: `serving.relayed`.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from llumnix.fleet.fleet import PlacementRequest
from llumnix.fleet.requests import ActiveRequest, ActiveState, nothing
from llumnix.frontend.bodies.budget import Holding
from llumnix.frontend.express.head import PlainHead
from llumnix.frontend.express.message import message
from llumnix.frontend.express.response import of_aiohttp, whole
from llumnix.frontend.express.stream import ENDED, Client, ExpressStream
from llumnix.frontend.http.connection import Connection
from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.http.upstream import Leg, judged
from llumnix.frontend.lifetime import Phase
from llumnix.frontend.moves.attempts import Attempts
from llumnix.frontend.moves.route import Route
from llumnix.frontend.moves.waits import Waits
from llumnix.frontend.relay import answer as answers
from llumnix.frontend.request.headers import to_client
from llumnix.frontend.request.location import as_clients_see
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest
from llumnix.frontend.request_log import write_line
from llumnix.frontend.seam import Placing
from llumnix.frontend.serving import Caller, Cutoff, Opening, first_leg, relayed, settle
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.leg_filter import hider
from llumnix.instances.instance import Instance
from policies.types import DispatchRequest

if TYPE_CHECKING:
    from llumnix.frontend.express.lane import Lane

log = logging.getLogger(__name__)


_OVERTIME_S = 5.0
"""The scheduler ends waits in time; this is for one that does not."""
_INTERNAL = Refusal(500, "the frontend has failed", "internal_error")


class Journey:
    """A request that is being served; cancelled if its client leaves."""

    __slots__ = (
        *("_active", "_arrived_at", "_asked_at", "_client", "_connection", "_ended", "_head"),
        *("_holding", "_placing", "_lane", "_request", "_status", "_stream", "_target", "_task"),
    )

    def __init__(
        self,
        lane: "Lane",
        client: Client,
        head: PlainHead,
        request: ClientRequest,
        holding: Holding,
    ) -> None:
        self._lane = lane
        self._client = client
        self._head = lane.onward(head)
        self._request = request
        self._arrived_at = time.monotonic()
        self._active: ActiveRequest = lane.active(head, request)
        self._target: Instance | None = None
        self._connection: Connection | None = None
        self._asked_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._holding = holding
        self._ended = False
        self._placing: Placing | None = None
        self._stream = ExpressStream(client)
        self._status = 0

    @property
    def begun(self) -> bool:
        """Whether its response has begun."""
        return self._stream.begun

    def begin(self) -> None:
        """Send the request to an instance, if one has room and a connection is idle."""
        lane, active, request = self._lane, self._active, self._request
        lane.lifetime.admit(self, active.account)
        context = lane.context
        ask = PlacementRequest(
            DispatchRequest(
                active.request_id,
                request.class_index,
                request.prompt_tokens,
                active.since_s,
                model=request.model or context.fleet.only_model(),
            )
        )
        try:
            target = context.queue.place_now(ask)
        except Exception as error:  # of a user's own policy, say: told as any other
            self._go_on(partial(_crash, error))
            return
        if target is not None:
            self._send_to(target, 0.0)
            return
        self._placing = context.queue.place_soon(ask)
        if self._placing is None:
            self._go_on(first_leg)
            return
        self._asked_at = time.monotonic()
        self._placing.placed.add_done_callback(self._placed)
        lane.waits(self)

    def _placed(self, placed: "asyncio.Future[Instance | Refusal]") -> None:
        """Send the request to where it was placed (called by the event loop)."""
        if self._ended or self._placing is None:
            return
        self._placing.leave()
        self._placing = None
        target = placed.result()
        if not isinstance(target, Refusal):
            self._send_to(target, time.monotonic() - self._asked_at)
            return
        self._go_on(partial(_refused, target))

    def _send_to(self, target: Instance, queued_s: float) -> None:
        lane, active, request = self._lane, self._active, self._request
        context = lane.context
        waited_s = context.fleet_seconds(queued_s)
        context.tally.waited(request.class_name, waited_s)
        active.account.queue_wait_s = waited_s
        active.state = ActiveState.STARTING
        active.goes_to(target.id)
        self._target, self._asked_at = target, time.monotonic()
        connection = context.upstream.pool.take(target.endpoint)
        if connection is None:
            self._go_on(self._connect)
            return
        self._connection = connection
        active.cut = self._cut
        connection.tell(self._news)
        secret = context.fleet.secret
        connection.ask(message(self._head, request, active.request_id, target, secret))
        lane.waits(self)

    def cancel(self) -> None:
        """End it: its client has left, or the frontend leaves."""
        if self._task is not None:
            self._task.cancel()
            return
        self._let_connection_go()
        self._leave_queue()
        self._end("failed" if self._active.account.cut else "cancelled", close=True)

    def _leave_queue(self) -> None:
        if self._placing is not None:
            self._placing.leave()
            self._placing = None

    def look(self, now: float) -> None:
        """See whether the instance takes too long."""
        context, target = self._lane.context, self._target
        silent_s = now - self._asked_at
        if self._placing is not None and silent_s > context.config.queue_timeout_s + _OVERTIME_S:
            self._leave_queue()
            self._go_on(first_leg)
        if target is None or silent_s <= min(context.config.patience_s, self._deadline_s()):
            return
        if silent_s > self._deadline_s():
            detail = f"{target.id} sent nothing for {self._deadline_s():g} s"
            self._failed(Failure(FailureKind.STALLED, detail))
            return
        attempts = Attempts(context.config.max_attempts)
        waits = Waits(context, self._request, self._active.request_id, attempts)
        late = waits.first_byte(target, 0, begun=False, grafts=False)
        kind = late.decide(silent_s) if silent_s > late.limit_s else None
        if kind is not None:
            self._failed(Failure(kind, f"{target.id} sent nothing for {silent_s:.1f} s"))

    def _deadline_s(self) -> float:
        config = self._lane.context.config
        return config.first_byte_timeout_s if self._request.streams else config.answer_timeout_s

    def _news(self) -> None:
        """See what has come from the instance (called from within the read)."""
        connection, target = self._connection, self._target
        assert connection is not None, "asked by then"
        assert target is not None, "asked by then"
        head, broken = connection.now()
        if broken is not None:
            self._failed(Failure(FailureKind.BROKEN, f"{target.id} broke off: {broken!r}"))
        elif head is None:
            return
        elif head.status == 200 and head.content_type == "text/event-stream":
            if connection.has_body:
                self._streams(connection, target)
            elif connection.over:
                detail = f"{target.id} ended its stream before it began"
                self._failed(Failure(FailureKind.BROKEN, detail))
        elif connection.over:
            body = connection.take()
            self._let_connection_go()
            answer = UpstreamAnswer(head.status, head.headers, body, target)
            self._answered(judged(answer, head))

    def _streams(self, connection: Connection, target: Instance) -> None:
        connection.tell(None)
        self._connection = None
        self._lane.waits_no_more(self)
        leg = Leg.begun(target, self._lane.context.upstream.pool, connection)
        leg.asked_at = self._asked_at
        self._active.cut = nothing

        async def adopt(route: Route) -> Leg | UpstreamAnswer | Refusal:
            return route.adopt(target, leg)

        self._go_on(adopt, leg.close)

    def _answered(self, answer: UpstreamAnswer | Failure) -> None:
        if isinstance(answer, Failure):
            self._failed(answer)
            return
        if answer.instance.plugged and sse.lets_go(answer.body):

            async def adopt(route: Route) -> Leg | UpstreamAnswer | Refusal:
                return route.adopt(answer.instance, answer)

            self._go_on(adopt)
            return
        self._lane.context.fleet.health.served(answer.instance)
        self._finish(answer)

    def _finish(self, answer: UpstreamAnswer) -> None:
        context, active, request = self._lane.context, self._active, self._request
        outcome = answers.outcome(answer)
        if outcome == "finished":
            spent_s = context.fleet_seconds(time.monotonic() - self._arrived_at)
            active.account.output_tokens = answers.output_tokens(answer)
            context.tally.answered(request.class_name, spent_s, active.account.output_tokens)
        else:
            active.account.cause = f"{answer.instance.id} answered {answer.status}"
        headers = to_client(answer.headers, active.shown_id, streams=True)
        as_clients_see(headers, [answer.instance])
        body = hider(answer.instance, asked=request.asks_ids(answer.instance))(answer.body)
        close = self._lane.lifetime.phase is not Phase.SERVING
        self._stream.push_raw(whole(answer.status, headers, body, close=close))
        self._status = answer.status
        self._end(outcome, close=close)

    def _failed(self, failure: Failure) -> None:
        target = self._target
        assert target is not None, "asked by then"
        self._let_connection_go()

        async def elsewhere(route: Route) -> Leg | UpstreamAnswer | Refusal:
            return await route.go_on(target, failure)

        self._go_on(elsewhere)

    def _cut(self) -> None:
        """End the wait: the instance was found dead."""
        target = self._target
        assert target is not None, "asked by then"
        self._failed(Failure(FailureKind.CUT, f"{target.id} went down"))

    async def _connect(self, route: Route) -> Leg | UpstreamAnswer | Refusal:
        """Send the request to where it was placed, over a connection that is still to be made."""
        assert self._target is not None, "placed by then"
        route.starts_at(self._target)
        return await route.open(None)

    def _go_on(self, opening: Opening, unused: Callable[[], None] = nothing) -> None:
        """Carry the request on as a task."""
        self._lane.waits_no_more(self)
        self._active.cut = nothing
        self._task = asyncio.get_running_loop().create_task(self._carry_on(opening))
        # A task that is cancelled before it has run never gets to close what it was given.
        self._task.add_done_callback(partial(self._over, unused))

    async def _carry_on(self, opening: Opening) -> None:
        caller = Caller(self._head.headers, self._stream, self._arrived_at)
        outcome, close = "failed", True
        account = self._active.account
        try:
            response, outcome = await relayed(
                self._lane.context, caller, self._request, self._active, opening
            )
            self._status = response.status
            close = False
            if response is not ENDED:
                assert isinstance(response, web.Response), "whatever else is ended by the relay"
                close = self._lane.lifetime.phase is not Phase.SERVING
                self._stream.push_raw(of_aiohttp(response, close=close))
        except Cutoff as error:
            account.cause = str(error)
        except (asyncio.CancelledError, ConnectionError):
            outcome = "failed" if account.cut or account.outcome == "failed" else "cancelled"
        except Exception as error:
            account.cause = f"internal: {type(error).__name__}"
            self._status = 500
            if not self.begun:
                self._stream.push_raw(of_aiohttp(_INTERNAL.response(), close=True))
            log.exception("request_crashed request_id=%s", self._active.request_id)
        finally:
            self._end(outcome, close=close)

    def _let_connection_go(self) -> None:
        connection, target = self._connection, self._target
        if connection is None or target is None:
            return
        self._connection = None
        connection.tell(None)
        self._lane.context.upstream.pool.give_back(target.endpoint, connection)

    def _over(self, unused: Callable[[], None], _task: "asyncio.Task[None]") -> None:
        unused()
        self._end("failed" if self._active.account.cut else "cancelled", close=True)

    def _end(self, outcome: str, *, close: bool) -> None:
        if self._ended:
            return
        self._ended = True
        lane, active = self._lane, self._active
        lane.waits_no_more(self)
        self._holding.give_back()
        settle(lane.context, active, outcome)
        lane.lifetime.release(self)
        lane.ended(self._request.tenant, self._status)
        spent_s = time.monotonic() - self._arrived_at
        write_line("POST", self._head.path.decode(), active.account, self._status, spent_s)
        self._client.finished(self, close=close)


async def _crash(error: Exception, _route: Route) -> Leg | UpstreamAnswer | Refusal:
    raise error


async def _refused(refusal: Refusal, _route: Route) -> Leg | UpstreamAnswer | Refusal:
    return refusal
