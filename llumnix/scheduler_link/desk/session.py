"""One frontend at the scheduler's desk: its requests, its waits, its notes."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llumnix.fleet.recall import to_plain
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from llumnix.scheduler_link import messages
from llumnix.scheduler_link.channel import Channel
from llumnix.scheduler_link.desk.requests import FarFollower, note_state
from llumnix.scheduler_link.desk.tolls import Visits
from llumnix.scheduler_link.figures import NOTHING, Figures
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.messages import Asked, Kind
from policies.types import InstanceId, MigrationId, RequestId

if TYPE_CHECKING:
    from llumnix.scheduler_link.desk.desk import Desk

log = logging.getLogger(__name__)

_HAND_OVER_TIMEOUT_S: Final = 600.0
_NOTES: Final = frozenset({"served", "failed", "passed_by", "trip", "busy", "left", "died"})


class Session:
    """What a frontend that is linked says, carried out on the fleet; `name` is its own."""

    def __init__(self, desk: "Desk", channel: Channel) -> None:
        self.name = ""
        self.figures: Figures = NOTHING
        self.welcomed = False
        self.channel = channel
        self._desk = desk
        self._fleet = desk.fleet
        self._mine: dict[RequestId, FarFollower] = {}
        self._reserved: set[str] = set()
        self._twice: set[str] = set()
        self._visits = Visits()
        self._waits: dict[int, asyncio.Task[None]] = {}

    def received(self, message: Message) -> None:
        """Carry out a message."""
        kind, *rest = message
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, *rest)

    def gone(self) -> None:
        """Forget all that the frontend had: its connections to instances are closed with it."""
        for task in list(self._waits.values()):
            task.cancel()
        for request_id in list(self._mine):
            self._closed(request_id, retry=False)
        self._desk.reserved -= self._reserved
        self._desk.tolls.gone(self._visits)
        self._desk.requests.flowed.pop(self.name, None)
        self._desk.queue.retry()

    def post(self, message: Message) -> None:
        """Send a message."""
        self.channel.post(message)

    # --- what it says ---

    def _hello(
        self, version: int, name: str, up: list[str], keepsake: Mapping[str, Any] | None
    ) -> None:
        self.name = name
        if version != messages.VERSION:
            log.warning("frontend_refused name=%s version=%s", name, version)
            self.channel.close(f"it speaks version {version} of the link, we {messages.VERSION}")
            return
        self._desk.hello(self, frozenset(up), keepsake)

    def _adopt(self, requests: list[list[Any]]) -> None:
        for each in requests:
            request_id, state, instance_id, placed_at_s, flows, name, since_s, immovable, held = (
                each
            )
            self._opened(request_id, name, since_s, immovable)
            if instance_id is None or request_id not in self._mine:
                continue
            self._state(request_id, state, instance_id, placed_at_s, flows)
            if flows is None:
                self._desk.on_its_way(RequestId(request_id), InstanceId(instance_id), held)

    def _opened(self, request_id: str, name: str, since_s: float, immovable: str) -> None:
        self._desk.reserved.discard(request_id)
        self._reserved.discard(request_id)
        own = RequestId(request_id)
        follower = FarFollower(own, self.post, self._desk.destination, self._hand_over)
        told = [request_id, name, since_s, immovable]
        active = self._desk.requests.admit(
            told, follower, lambda: self.post([Kind.CUT, request_id])
        )
        if active is None:
            self._twice.add(request_id)
            log.warning("request_id_twice request_id=%s frontend=%s", request_id, self.name)
            return
        self._mine[own] = follower

    def _closed(self, request_id: str, *, retry: bool = True) -> None:
        self._desk.reserved.discard(request_id)
        self._reserved.discard(request_id)
        self._twice.discard(request_id)
        own = RequestId(request_id)
        if self._mine.pop(own, None) is None:
            return
        self._desk.requests.close(own)
        self._desk.requests.tokens.pop(own, None)
        self._fleet.forget(own)
        self._fleet.health.suspects.forget(own)
        if retry:
            self._desk.queue.retry()

    def _state(
        self,
        request_id: str,
        state: str,
        instance_id: str | None,
        placed_at_s: float,
        flows_since_s: float | None,
    ) -> None:
        if request_id not in self._mine:
            return
        active = self._desk.requests.active[RequestId(request_id)]
        began = active.flows_since_s is None and flows_since_s is not None
        note_state(active, [state, instance_id, placed_at_s, flows_since_s])
        if began:
            self._fleet.health.flows(active.request_id)

    def _place(self, number: int, *told: Any) -> None:
        ask = messages.ask_of(told)
        if ask.request.request_id in self._twice:
            refusal = Refusal(409, "another request has this id", "duplicate_request_id")
            self._answer(number, ask.request.request_id, refusal)
            return
        target = None if self._desk.joining else self._desk.queue.place_now(ask)
        if target is not None:
            self._answer(number, ask.request.request_id, target)
            return
        self._desk.joining += 1
        task = asyncio.ensure_future(self._wait(number, ask))
        self._waits[number] = task
        task.add_done_callback(lambda _: self._waits.pop(number, None))

    async def _wait(self, number: int, ask: Any) -> None:
        self._desk.joining -= 1  # it joins the queue before anything else runs
        placed = await self._desk.queue.place(ask)
        self._answer(number, ask.request.request_id, placed)

    def _answer(self, number: int, request_id: RequestId, placed: Instance | Refusal) -> None:
        if isinstance(placed, Refusal):
            self.post([Kind.PLACED, number, None, messages.refusal_plain(placed)])
            return
        active = self._desk.requests.active.get(request_id)
        if active is not None:  # it counts there at once, as where the frontend is at hand
            active.goes_to(placed.id)
        else:  # it only asked where there is a server: nothing goes there that reports would show
            self._fleet.forget(request_id)
        self.post([Kind.PLACED, number, placed.id, None])

    def _leave(self, number: int) -> None:
        task = self._waits.get(number)
        if task is not None:
            task.cancel()

    def _forget(self, request_id: str) -> None:
        if request_id in self._mine:
            self._fleet.forget(RequestId(request_id))

    def _suspect(self, instance_id: str, reason: str) -> None:
        instance = self._fleet.instances.get(instance_id)
        if instance is not None:
            self._fleet.suspect(instance, reason)
            # Before it may be up again: whoever told us takes it for lost until told otherwise.
            self._desk.tell_changes()

    def _health(self, what: str, instance_id: str, *arguments: Any) -> None:
        if what == "convict":
            request_id, names = arguments
            self._fleet.health.convict(RequestId(request_id), tuple(names))
            return
        instance = self._fleet.instances.get(instance_id)
        if instance is not None and what in _NOTES:
            getattr(self._fleet.health, what)(instance, *arguments)

    def _condemn(self, digest: bytes) -> None:
        now_s = time.monotonic()
        self._fleet.health.suspects.condemn(digest, now_s)
        self._desk.tell_all([Kind.CONDEMNED, {digest: now_s}])

    def _claimed(self, request_id: str, migration_id: str) -> None:
        self._fleet.claimed(RequestId(request_id), MigrationId(migration_id))

    def _flowed(self, flowed: dict[str, float]) -> None:
        if self.name:
            self._desk.requests.flowed[self.name] = flowed

    def _able(self, able: Mapping[str, list[str]]) -> None:
        for request_id, instances in able.items():
            follower = self._mine.get(RequestId(request_id))
            if follower is not None:
                follower.able = frozenset(instances)

    def _ask(self, number: int, what: str, arguments: list[Any]) -> None:
        match what:
            case Asked.UNIQUE_ID:
                self.channel.answer(number, self._unique(*arguments))
            case Asked.VERDICT:
                convicted = self._fleet.health.suspects.convicted(RequestId(arguments[0]))
                self.channel.answer(number, list(convicted))
            case Asked.ADMIT:
                self.channel.answer(number, self._desk.tolls.enter(self._visits, *arguments))
            case Asked.RESERVE:
                self.channel.answer(number, self._desk.tolls.reserve(self._visits, *arguments))
            case Asked.RECALL:
                self._desk.spawn(self._recall(number, *arguments))
            case Asked.MODELS:
                self._desk.spawn(self._find_models(number))
            case _:
                self.channel.answer(number, None)

    def _visited(self, number: int, tokens: int) -> None:
        self._desk.tolls.end(self._visits, number, tokens)

    def _visiting(self, visits: list[list[Any]]) -> None:
        for each in visits:
            number, key_hash, limits, prompt_tokens, output_tokens = each
            self._desk.tolls.adopt(
                self._visits, number, key_hash, limits, prompt_tokens, output_tokens
            )

    def _unique(self, wanted: str) -> str:
        given = self._desk.free_id(wanted)
        self._desk.reserved.add(given)
        self._reserved.add(given)
        return given

    async def _recall(self, number: int, request_id: str, owner: str, timeout_s: float) -> None:
        found = await self._fleet.recall(request_id, owner, timeout_s)
        self.channel.answer(number, to_plain(found))

    async def _find_models(self, number: int) -> None:
        if self._fleet.models is not None:
            await self._fleet.models.refresh()
        self._desk.tell_changes()
        self.channel.answer(number, True)

    async def _hand_over(self, request_id: RequestId, target: InstanceId) -> bool:
        try:
            arguments = [request_id, target]
            return bool(await self.channel.ask(Asked.HAND_OVER, arguments, _HAND_OVER_TIMEOUT_S))
        except OSError:
            return False


_HANDLERS: Final[Mapping[int, Callable[..., None]]] = {
    Kind.HELLO: Session._hello,  # noqa: SLF001 - its own table
    Kind.ADOPT: Session._adopt,  # noqa: SLF001
    Kind.OPENED: Session._opened,  # noqa: SLF001
    Kind.PLACE: Session._place,  # noqa: SLF001
    Kind.LEAVE: Session._leave,  # noqa: SLF001
    Kind.STATE: Session._state,  # noqa: SLF001
    Kind.CLOSED: Session._closed,  # noqa: SLF001
    Kind.FORGET: Session._forget,  # noqa: SLF001
    Kind.SUSPECT: Session._suspect,  # noqa: SLF001
    Kind.HEALTH: Session._health,  # noqa: SLF001
    Kind.CONDEMN: Session._condemn,  # noqa: SLF001
    Kind.CLAIMED: Session._claimed,  # noqa: SLF001
    Kind.FLOWED: Session._flowed,  # noqa: SLF001
    Kind.ABLE: Session._able,  # noqa: SLF001
    Kind.VISITED: Session._visited,  # noqa: SLF001
    Kind.VISITING: Session._visiting,  # noqa: SLF001
    Kind.ASK: Session._ask,  # noqa: SLF001
}
