"""Strict translation between frozen dataclasses and plain msgpack values.

A dataclass needs only type hints; `Annotated` bounds a size where the default is too lax.
A member of a StrEnum travels as its value, and no other value is accepted.
Tuples of integers (token ids, counts) travel as packed unsigned 32-bit numbers: contexts are long.
Unknown or missing keys, wrong types, sizes and values raise ProtocolError; nothing is unpickled.
"""

import enum
import sys
import typing
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, cast

import msgpack

from migration.errors import ProtocolError

T = TypeVar("T")

MAX_TEXT = 4096
MAX_ITEMS = 1 << 20
_LEAST, _MOST = -(1 << 62), 1 << 62


@dataclass(frozen=True, slots=True)
class Text:
    """Bound a string, in characters; `least` 1 forbids the empty one."""

    most: int
    least: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    """Bound an integer from 0 to `most`."""

    most: int


@dataclass(frozen=True, slots=True)
class Kind:
    """How one type of value is encoded and decoded."""

    dump: Callable[[Any], object]
    load: Callable[[object], Any]


def pack(plain: Mapping[str, object]) -> bytes:
    """Serialise plain values; raises ProtocolError for what msgpack cannot represent."""
    try:
        return cast("bytes", msgpack.packb(plain, use_bin_type=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError("unpackable", str(error)) from error


def unpack(data: bytes | memoryview) -> dict[str, object]:
    """Read one msgpack map with string keys; raises ProtocolError for anything else."""
    try:
        plain = msgpack.unpackb(
            data, raw=False, strict_map_key=True, use_list=True, ext_hook=_no_extension
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError("malformed", str(error)[:200]) from error
    return _mapping(plain)


def dump(value: object) -> dict[str, object]:
    """Turn a dataclass into a plain dict."""
    return {name: kind.dump(getattr(value, name)) for name, kind in _kinds(type(value)).items()}


def load(cls: type[T], plain: Mapping[str, object]) -> T:
    """Turn a plain dict into `cls`; raises ProtocolError unless every key and value is valid."""
    kinds = _kinds(cls)
    if plain.keys() != kinds.keys():
        odd = sorted(map(str, plain.keys() ^ kinds.keys()))
        raise ProtocolError("wrong_keys", f"{cls.__name__}: {', '.join(odd)[:200]}")
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        try:
            values[name] = kind.load(plain[name])
        except ProtocolError as error:
            raise ProtocolError(error.code, f"{cls.__name__}.{name}: {error.detail}") from None
    return cls(**values)


def _kinds(cls: type[object]) -> dict[str, Kind]:
    if cls not in _KNOWN:
        assert is_dataclass(cls), cls
        hints = typing.get_type_hints(cls, include_extras=True)
        _KNOWN[cls] = {item.name: _kind(hints[item.name]) for item in fields(cls)}
    return _KNOWN[cls]


def _kind(hint: Any) -> Kind:
    """Derive the encoding of a type hint. Raises TypeError for hints that have none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _bounded(args[1])
    if hasattr(hint, "__supertype__"):
        return _kind(hint.__supertype__)
    if origin in (UnionType, typing.Union) and NoneType in args:
        return _optional(_kind(next(arg for arg in args if arg is not NoneType)))
    if origin is tuple and args[0] is int:
        return Kind(_pack_ints, _unpack_ints)
    if origin is tuple:
        return _sequence(_kind(args[0]))
    if origin is dict:
        return Kind(dict, _plain_mapping)
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return _choice(hint)
    if is_dataclass(hint):
        inner = cast("type", hint)
        return Kind(dump, lambda raw: load(inner, _mapping(raw)))
    if hint in _PLAIN:
        return _PLAIN[hint]
    raise TypeError(f"{hint!r} cannot be sent")


def _bounded(bound: object) -> Kind:
    if isinstance(bound, Text):
        return Kind(str, lambda raw: _text(raw, bound))
    if isinstance(bound, Whole):
        return Kind(int, lambda raw: _whole(raw, 0, bound.most))
    raise TypeError(f"{bound!r} is no bound")


def _choice(members: type[enum.StrEnum]) -> Kind:
    def load_member(raw: object) -> enum.StrEnum:
        text = _text(raw, Text(MAX_TEXT))
        try:
            return members(text)
        except ValueError:
            raise ProtocolError("wrong_value", f"{text[:100]!r} is no {members.__name__}") from None

    return Kind(str, load_member)


def _optional(inner: Kind) -> Kind:
    return Kind(
        lambda value: None if value is None else inner.dump(value),
        lambda raw: None if raw is None else inner.load(raw),
    )


def _sequence(inner: Kind) -> Kind:
    def load_items(raw: object) -> tuple[Any, ...]:
        if not isinstance(raw, list) or len(raw) > MAX_ITEMS:
            raise ProtocolError("wrong_type", f"expected a list, not {_shown(raw)}")
        return tuple(inner.load(item) for item in raw)

    return Kind(lambda values: [inner.dump(value) for value in values], load_items)


def _text(raw: object, bound: Text) -> str:
    if not isinstance(raw, str):
        raise ProtocolError("wrong_type", f"expected a string, not {_shown(raw)}")
    if not bound.least <= len(raw) <= bound.most:
        raise ProtocolError("wrong_size", f"{len(raw)} characters")
    return raw


def _whole(raw: object, least: int, most: int) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise ProtocolError("wrong_type", f"expected an integer, not {_shown(raw)}")
    if not least <= raw <= most:
        raise ProtocolError("wrong_size", f"{raw} is not within {least}..{most}")
    return raw


def _any(raw: object) -> int:
    return _whole(raw, _LEAST, _MOST)


def _real(raw: object) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise ProtocolError("wrong_type", f"expected a number, not {_shown(raw)}")
    if raw != raw:
        raise ProtocolError("wrong_type", "expected a number, not NaN")
    return float(raw)


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ProtocolError("wrong_type", f"expected true or false, not {_shown(raw)}")
    return raw


def _mapping(raw: object) -> dict[str, object]:
    if not isinstance(raw, dict) or not _STRINGS.issuperset(map(type, raw)):
        raise ProtocolError("wrong_type", f"expected a map with string keys, not {_shown(raw)}")
    return raw


def _plain_mapping(raw: object) -> dict[str, object]:
    """Accept any map of plain values, however deep (without recursion: peers choose the depth)."""
    unseen = [raw]
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict):
            unseen.extend(value.values())
        elif isinstance(value, list):
            unseen.extend(value)
        elif not isinstance(value, str | bytes | int | float | None):
            raise ProtocolError("wrong_type", f"expected plain values, not {_shown(value)}")
    return _mapping(raw)


def _pack_ints(ids: tuple[int, ...]) -> bytes:
    try:
        return _little_endian(array("I", ids)).tobytes()
    except (OverflowError, TypeError) as error:
        raise ProtocolError("unpackable", str(error)) from error


def _unpack_ints(raw: object) -> tuple[int, ...]:
    if not isinstance(raw, bytes):
        raise ProtocolError("wrong_type", f"expected packed integers, not {_shown(raw)}")
    if len(raw) % 4 or len(raw) > 4 * MAX_ITEMS:
        raise ProtocolError("wrong_size", f"{len(raw)} bytes of packed integers")
    return tuple(_little_endian(array("I", raw)))


def _little_endian(ids: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        ids.byteswap()
    return ids


def _no_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def _shown(raw: object) -> str:
    return type(raw).__name__


_STRINGS = frozenset({str})
_KNOWN: dict[type[object], dict[str, Kind]] = {}
_PLAIN: dict[Any, Kind] = {
    str: Kind(str, lambda raw: _text(raw, Text(MAX_TEXT))),
    int: Kind(int, lambda raw: raw if type(raw) is int and _LEAST <= raw <= _MOST else _any(raw)),
    float: Kind(float, _real),
    bool: Kind(bool, _flag),
}
