"""One end of a link: messages out, once per turn of the event loop, and messages in.

Over any byte stream: a unix socket now. What arrives is given to `received` message by message; an
end that reads too slowly, or says nothing for too long, is cut off.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from llumnix.scheduler_link.frames import Malformed, Message, Unframer, frame
from llumnix.scheduler_link.messages import Asked, Kind

log = logging.getLogger(__name__)

_UNSENT_BYTES: Final = 64 << 20
SILENCE_S: Final = 5.0
"""Each end says something at least every second; after so long without a word, it is gone."""


class Channel(asyncio.Protocol):
    """Sends and receives messages; `lost` is called once, when the connection has ended.

    `prelude` gives messages that must precede all others of a turn.
    """

    def __init__(
        self,
        received: "Callable[[Channel, Message], None]",
        opened: "Callable[[Channel], None]",
        lost: "Callable[[Channel, str], None]",
    ) -> None:
        self.heard_at_s = 0.0
        self.prelude: Callable[[], list[Message]] = list
        self._received = received
        self._opened = opened
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unframer = Unframer()
        self._posted: list[Message] = []
        self._flush_due = False
        self._numbers = itertools.count()
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._why = "the other end closed it"

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None

    def post(self, message: Message) -> None:
        """Send a message at the end of this turn of the event loop, after those posted before."""
        self._posted.append(message)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what was posted, now."""
        self._flush_due = False
        transport, posted = self._transport, self._posted
        if transport is None:
            posted.clear()
            return
        prelude = self.prelude()
        if not (prelude or posted):
            return
        self._posted = []
        transport.write(frame([*prelude, *posted]))
        if transport.get_write_buffer_size() > _UNSENT_BYTES:
            self.close("the other end does not read")

    async def ask(self, what: Asked, arguments: list[Any], timeout_s: float) -> Any:
        """Ask the other end; raises OSError if there is no answer in time, or the link breaks."""
        if self._transport is None:
            raise ConnectionError("the link is closed")
        number = next(self._numbers)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._questions[number] = answer
        self.post([Kind.ASK, number, what, arguments])
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._questions.pop(number, None)

    def answer(self, number: int, value: Any) -> None:
        """Answer a question."""
        self.post([Kind.ANSWER, number, value])

    def close(self, why: str) -> None:
        """End the connection."""
        if self._transport is not None:
            self._why = why
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self.heard_at_s = self._loop.time()
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.heard_at_s = self._loop.time()
        try:
            for message in self._unframer.feed(data):
                if message[0] == Kind.ANSWER:
                    self._answered(message)
                else:
                    self._received(self, message)
        except (Malformed, ValueError, TypeError, LookupError) as error:
            log.warning("scheduler_link_malformed error=%r", error, exc_info=error)
            self.close(f"it sent what cannot be understood: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._posted.clear()
        questions, self._questions = self._questions, {}
        for each in questions.values():
            if not each.done():
                each.set_exception(ConnectionError("the link broke"))
        self._lost(self, str(exc) if exc is not None else self._why)

    def check_silence(self) -> None:
        """Close the link if nothing has been heard for too long."""
        if self._transport is not None and self._loop.time() - self.heard_at_s > SILENCE_S:
            self.close(f"nothing was heard for {SILENCE_S:g} s")

    def _answered(self, message: Message) -> None:
        _, number, value = message
        question = self._questions.get(number)
        if question is not None and not question.done():
            question.set_result(value)
