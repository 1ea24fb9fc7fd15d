"""Streams kept for clients that may come back: for a minute, for their owner, bounded in bytes."""

from multidict import CIMultiDict

from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.reconnect.kept import KEPT_S, KeptStream, KeptStreams
from llumnix.frontend.splicing.ledger import Ledger


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def kept(owner: str = "me", size: int = 10) -> KeptStream:
    """Make one that holds so many bytes."""
    ledger = Ledger()
    ledger.add(b"x" * size)
    return KeptStream(owner, 200, CIMultiDict(), ledger, DeliveredStream(), whole=False)


def test_a_stream_is_kept_for_a_minute_and_given_once_to_its_owner() -> None:
    clock = Clock()
    streams, stream = KeptStreams(clock), kept()
    streams.keep("r", stream)
    assert streams.take("r", "you") is None
    clock.now_s += KEPT_S
    assert streams.take("r", "me") is stream
    assert streams.take("r", "me") is None
    streams.keep("r", stream)
    clock.now_s += KEPT_S + 0.1
    assert streams.take("r", "me") is None
    assert len(streams) == 0


def test_the_oldest_make_room() -> None:
    streams = KeptStreams(Clock(), max_bytes=kept(size=1000).weight() * 2)
    for name in "abc":
        streams.keep(name, kept(size=1000))
    assert len(streams) == 2
    assert streams.take("a", "me") is None
    assert streams.take("c", "me") is not None
