"""Typed JSON objects: written from frozen dataclasses, and read back into them.

A reader ignores keys that it does not know, as those of a newer writer; a missing key takes its
field's default, if the field has one. Anything else that does not fit raises SchemaError.
"""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_SCALARS = frozenset({str, int, float, bool, NoneType})


class SchemaError(ValueError):
    """A response does not fit the schema; the message names the field."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One JSON object."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return write_answer(self)

    @classmethod
    def from_json(cls, plain: object) -> Self:
        """Read a JSON object; raises SchemaError."""
        return read_answer(cls, plain)


def key(name: str) -> dict[str, str]:
    """Return the metadata of a field whose JSON key is not a valid field name."""
    return {"key": name}


def write_answer(answer: Answer) -> dict[str, Any]:
    """Return an object as JSON, field by field."""
    return {key: _plain(getattr(answer, name)) for key, name in _keys(type(answer))}  # type: ignore[arg-type]


def read_answer(cls: type[T], plain: object) -> T:
    """Read a JSON object, field by field; raises SchemaError."""
    if not isinstance(plain, Mapping):
        raise SchemaError(f"{cls.__name__}: expected an object, not {_shown(plain)}")
    hints = _hints(cls)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = item.metadata.get("key", item.name)
        if name in plain:
            values[item.name] = read_value(hints[item.name], plain[name], f"{cls.__name__}.{name}")
        elif item.default is item.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{cls.__name__}.{name} is missing")
    return cls(**values)


def read_value(hint: Any, plain: object, where: str) -> Any:
    """Read a JSON value of the type in a hint; raises SchemaError, which names `where`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return plain
    if origin is UnionType and NoneType in args:
        (inner,) = (arg for arg in args if arg is not NoneType)
        return None if plain is None else read_value(inner, plain, where)
    if origin is tuple:
        if not isinstance(plain, list):
            raise SchemaError(f"{where}: expected a list, not {_shown(plain)}")
        return tuple(read_value(args[0], each, f"{where}[]") for each in plain)
    if origin is Mapping:
        if not isinstance(plain, Mapping):
            raise SchemaError(f"{where}: expected an object, not {_shown(plain)}")
        return {name: read_value(args[1], each, f"{where}.{name}") for name, each in plain.items()}
    if issubclass(hint, Answer):
        return hint.from_json(plain)
    if hint is float and type(plain) is int:
        return float(plain)
    if type(plain) is not hint:
        raise SchemaError(f"{where}: expected {hint.__name__}, not {_shown(plain)}")
    return plain


@functools.cache
def _keys(cls: type[object]) -> tuple[tuple[str, str], ...]:
    """Return the JSON key and the name of each field."""
    items = dataclasses.fields(cls)  # type: ignore[arg-type]
    return tuple((item.metadata.get("key", item.name), item.name) for item in items)


@functools.cache
def _hints(cls: type[object]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _plain(value: Any) -> Any:
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Answer):
        return value.to_json()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _shown(plain: object) -> str:
    return type(plain).__name__
