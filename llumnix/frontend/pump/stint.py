"""One stretch of a stream that the pump carries, from one leg's socket to the client's."""

from collections.abc import Iterator
from contextlib import contextmanager

from llumnix.frontend.http.client import ClientStream
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.pump.pump import Flow, Hide, Pump
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.leg_filter import Hide as Hider
from llumnix.frontend.splicing.leg_filter import LegFilter, as_it_is

_HIDES: dict[Hider, Hide] = {
    as_it_is: Hide.NOTHING,
    sse.with_token_ids_nulled: Hide.NULLED,
    sse.without_token_ids: Hide.REMOVED,
}


class Stint:
    """`flow` is None if the pump could not take the stream; `left` is for Python to pass on."""

    __slots__ = ("_leg", "flow", "left")

    def __init__(self, leg: Leg) -> None:
        self.flow: Flow | None = None
        self.left = b""
        self._leg = leg

    async def over(self) -> None:
        """Wait until the pump stops, or the leg is closed."""
        if self.flow is not None:
            await self._leg.connection.lent()


@contextmanager
def carried(pump: Pump, leg: Leg, client: ClientStream, strand: LegFilter) -> Iterator[Stint]:
    """Have the pump carry a stream, and at the end take back what it did not pass on."""
    stint, connection, downstream = Stint(leg), leg.connection, client.socket
    lent = connection.lend() if strand.plain and downstream is not None else None
    if lent is None or downstream is None:
        yield stint
        return
    upstream, raw = lent
    body = strand.take_rest()
    flow = pump.begin(
        (upstream, downstream),
        *(_HIDES[strand.hides], strand.ledger, connection.wake),
        plugged=strand.plugged,
        body=body,
        raw=raw,
    )
    if flow is None:
        connection.take_back(raw)
        stint.left = body
        yield stint
        return
    stint.flow = flow
    connection.let_go = flow.leave
    strand.ledger.behind = flow.settle
    try:
        yield stint
    finally:
        strand.ledger.behind = None
        rest = flow.end()
        if rest.unsent:
            client.push_raw(rest.unsent)
        stint.left = rest.body
        connection.take_back(rest.raw)
