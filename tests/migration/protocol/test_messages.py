"""The codecs are strict: what is not a perfect message is a ProtocolError, and nothing else."""

import contextlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migration.errors import ProtocolError
from migration.llumlet import fleet_messages as orders
from migration.llumlet.fleet_messages import EventKind, MigrationEvent, News, Order
from migration.protocol import messages, wire
from migration.protocol.messages import Message
from policies.types import MigrateReason
from tests.migration.protocol.samples import MESSAGES, ORDERS, STATE, M

PLAIN = [messages.encode(item) for item in MESSAGES]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: type(item).__name__)
def test_every_message_survives_the_wire(message: Message) -> None:
    """What is encoded, packed, unpacked and decoded is equal to what it was."""
    packed = wire.pack(messages.encode(message))

    assert messages.decode(wire.unpack(packed)) == message


@pytest.mark.parametrize("order", ORDERS, ids=lambda item: type(item).__name__)
def test_every_order_and_report_survives_the_wire(order: Order | News) -> None:
    """The fleet's side of the control port keeps every field."""
    assert orders.decode(wire.unpack(wire.pack(orders.encode(order)))) == order


def test_samples_cover_every_type() -> None:
    """No message type is left out of the tests of the codec."""
    assert {type(item) for item in MESSAGES} == set(messages.TYPES.values())
    assert {type(item) for item in ORDERS} == set(orders.TYPES.values())


@pytest.mark.parametrize("plain", PLAIN, ids=lambda plain: str(plain["type"]))
def test_every_key_is_needed_and_no_other_taken(plain: dict[str, object]) -> None:
    """A missing key, an extra key and a missing type are each refused."""
    for key in plain:
        with pytest.raises(ProtocolError):
            messages.decode({name: value for name, value in plain.items() if name != key})
    with pytest.raises(ProtocolError, match="wrong_keys"):
        messages.decode({**plain, "more": 1})


@pytest.mark.parametrize("plain", PLAIN, ids=lambda plain: str(plain["type"]))
@pytest.mark.parametrize("wrong", [None, True, 1.5, [1], {"a": 1}, b"\x00", float("nan")])
def test_every_key_has_a_type(plain: dict[str, object], wrong: object) -> None:
    """No field accepts a value of another type."""
    for key, value in plain.items():
        if type(value) is not type(wrong):
            with pytest.raises(ProtocolError):
                messages.decode({**plain, key: wrong})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("stage_ack", {"migration_id": ""}),
        ("stage_ack", {"migration_id": "x" * 257}),
        ("stage_ack", {"epoch": -1}),
        ("stage_ack", {"stage": 1 << 17}),
        ("reserve", {"n_blocks": 1 << 21}),
        ("blocks", {"checksum": 1 << 32}),
        ("abort", {"reason": "x" * 1025}),
        ("unheard_of", {}),
    ],
)
def test_sizes_are_bounded(name: str, changes: dict[str, object]) -> None:
    """Ids, numbers and texts beyond their bounds are refused, and so are unknown types."""
    plain = next((item for item in PLAIN if item["type"] == name), {"type": name})

    with pytest.raises(ProtocolError):
        messages.decode({**plain, **changes})


def test_token_ids_that_are_none_cannot_be_sent() -> None:
    """A negative token id is refused where it is sent."""
    odd = replace(STATE, output_token_ids=(-1,))

    with pytest.raises(ProtocolError, match="unpackable"):
        messages.encode(messages.Commit(M, 1, 3, odd))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_politely(data: bytes) -> None:
    """Whatever the bytes, decoding ends in a message or a ProtocolError."""
    try:
        messages.decode(wire.unpack(data))
    except ProtocolError:
        return
    pytest.fail("random bytes made a message")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=5,
)


@given(st.sampled_from(PLAIN), st.data())
def test_random_values_are_refused_politely(plain: dict[str, Any], data: st.DataObject) -> None:
    """Whatever stands in a field, decoding ends in a message or a ProtocolError."""
    key = data.draw(st.sampled_from(sorted(plain)))
    packed = msgpack.packb({**plain, key: data.draw(VALUES)}, default=str)
    with contextlib.suppress(ProtocolError):
        messages.decode(wire.unpack(packed))


def test_only_plain_msgpack_is_read() -> None:
    """No extension types, no keys but text, nothing but a map at the top."""
    for value in ({"a": msgpack.ExtType(5, b"x")}, {1: 2}, [1], {"a": {1: 2}}):
        with pytest.raises(ProtocolError):
            wire.unpack(msgpack.packb(value))


@pytest.mark.parametrize("odd", [msgpack.Timestamp(1), [[msgpack.Timestamp(1)]]])
def test_parameters_are_plain_values(odd: object) -> None:
    """What an engine gets as parameters is made of plain values only."""
    plain = messages.encode(messages.Commit(M, 1, 3, replace(STATE, params={"a": odd})))

    with pytest.raises(ProtocolError, match="plain values"):
        messages.decode(wire.unpack(wire.pack(plain)))


def test_deep_nesting_is_no_way_to_overflow_the_stack() -> None:
    """However deep a peer nests, reading it ends in a value or a ProtocolError."""
    for depth in (100, 500, 1000, 100_000):
        deep = b"\x91" * depth + b"\x00"
        commit = wire.pack(messages.encode(messages.Commit(M, 1, 3, replace(STATE, params={}))))
        with contextlib.suppress(ProtocolError):
            messages.decode(wire.unpack(commit.replace(b"params\x80", b"params\x81\xa1a" + deep)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("kind", value) for value in ("", "handed over", 1, None)),
        # A reason is a proposer's name, and anybody may add a proposer: any short text will do.
        *(("reason", value) for value in (1, None, "x" * 1025)),
    ],
)
def test_a_word_that_decides_is_one_of_those_known(field: str, value: object) -> None:
    """A choice travels as its member's value, and comes back as the member."""
    (event,) = (one for one in ORDERS if isinstance(one, MigrationEvent))
    plain = orders.encode(event)
    assert type(plain["kind"]) is type(plain["reason"]) is str
    back = orders.decode(plain)
    assert isinstance(back, MigrationEvent)
    assert (back.kind, back.reason) == (EventKind.ABORTED, MigrateReason.DRAIN)
    assert back.kind is EventKind.ABORTED

    with pytest.raises(ProtocolError, match=f"MigrationEvent.{field}"):
        orders.decode({**plain, field: value})
