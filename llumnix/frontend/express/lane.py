"""What all express connections share: which requests they take, and how each is begun."""

import asyncio
import time
from typing import Final

from llumnix.fleet.account import Account
from llumnix.fleet.requests import ActiveRequest, ActiveState
from llumnix.frontend.access.gate import Gate
from llumnix.frontend.bodies.cost import is_cheap
from llumnix.frontend.context import ServingContext
from llumnix.frontend.express.head import HeadReader, PlainHead
from llumnix.frontend.express.journey import Journey
from llumnix.frontend.lifetime import Lifetime, Phase
from llumnix.frontend.request.headers import REQUEST_ID
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest, is_id, parse, request_id
from policies.types import RequestId

_PATHS: Final = {
    b"/v1/completions": "/v1/completions",
    b"/v1/chat/completions": "/v1/chat/completions",
}
_LARGEST_BODY_BYTES: Final = 256 * 1024
_SLOWEST_LOOK_S: Final = 0.25
_FASTEST_LOOK_S: Final = 0.02


class Lane:
    """Takes the plain requests of one port, of clients for whose key nothing need be counted.

    One timer looks after all that wait for an instance. `taken` counts the requests.
    """

    def __init__(self, context: ServingContext, lifetime: Lifetime, gate: Gate) -> None:
        self._gate = gate
        self.context = context
        self.lifetime = lifetime
        self.heads = HeadReader()
        self.taken = 0
        self._waiting: dict[Journey, None] = {}
        self._looking: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Look after nobody any more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def path(self, head: PlainHead) -> str | None:
        """Return the path if such a request may be taken here, by its head."""
        if head.method != b"POST" or self.lifetime.phase is not Phase.SERVING:
            return None
        if (
            not 0
            < head.length_bytes
            <= min(_LARGEST_BODY_BYTES, self.context.config.body_limit_bytes)
        ):
            return None
        if self.context.fleet.far and head.noted.get(REQUEST_ID) is not None:
            return None  # whether the id is free is to be asked elsewhere
        base = self.context.config.base_path.rstrip("/")
        return _PATHS.get(head.path.removeprefix(base.encode()) if base else head.path)

    def parse(self, head: PlainHead, path: str, body: bytes) -> ClientRequest | None:
        """Parse a request; None if it is not plain after all, such as a wrong one."""
        context = self.context
        if not is_cheap(body) or context.fleet.health.suspects.any_condemned:
            return None  # whether this is a condemned one is asked on the long way
        caller = self._gate.unlimited(head.noted)
        if caller is None:
            return None
        classes = caller.classes(context.classes) if self._gate.keyed else context.classes
        request = parse(path, body, head.noted, classes, caller.tenant)
        if isinstance(request, Refusal) or request.forged:
            return None
        if request.model is not None and not context.fleet.serves(request.model):
            return None
        return request

    def onward(self, head: PlainHead) -> PlainHead:
        """Return the head as it may be sent on: a client's key for us is for nobody else."""
        return head.without_keys() if self._gate.keyed else head

    def ended(self, tenant: str, status: int) -> None:
        """Count a request that is over, as the door does."""
        if self._gate.keyed:
            self.context.tally.tenant_request(tenant, status)

    def active(self, head: PlainHead, request: ClientRequest) -> ActiveRequest:
        """Put a request in the fleet's table."""
        self.taken += 1
        context, wanted = self.context, head.noted.get(REQUEST_ID)
        context.tally.request_arrived()
        own = request_id(wanted, context.fleet.requests.active)
        account = Account(
            request_id=own,
            tenant=request.tenant,
            client_id=wanted if wanted is not None and is_id(wanted) else "",
            class_name=request.class_name,
            model=request.model or "",
            prompt_tokens=request.prompt_tokens,
        )
        active = ActiveRequest(
            RequestId(own),
            request.class_name,
            context.fleet.now_s(),
            ActiveState.QUEUED,
            account=account,
            immovable="" if request.resumable else "its output cannot be joined from two instances",
        )
        context.fleet.requests.open(active)
        return active

    def waits(self, journey: Journey) -> None:
        """Look after a request that waits for an instance."""
        self._waiting[journey] = None
        if self._looking is None:
            self._look_later()

    def waits_no_more(self, journey: Journey) -> None:
        """Forget it."""
        self._waiting.pop(journey, None)

    def _look_later(self) -> None:
        pause_s = self.context.config.patience_s / 4
        self._looking = asyncio.get_running_loop().call_later(
            max(_FASTEST_LOOK_S, min(_SLOWEST_LOOK_S, pause_s)), self._look
        )

    def _look(self) -> None:
        self._looking = None
        now = time.monotonic()
        for journey in list(self._waiting):
            journey.look(now)
        if self._waiting:
            self._look_later()
