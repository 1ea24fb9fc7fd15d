"""Copies a world quickly: by pickling what changes and sharing what cannot change."""

import enum
import io
import pickle
from collections.abc import Callable
from typing import Any

from migration.config import MigrationConfig
from migration.engine import Gone, RequestState
from migration.layout import Layout
from migration.llumlet import effects
from migration.llumlet import fleet_messages as orders
from migration.protocol import destination, events, instructions, messages, source
from migration.protocol.trip import Trip

_SHARED: dict[int, object] = {}


def _fetch(key: int) -> object:
    return _SHARED[key]


def _share(value: object) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    _SHARED[id(value)] = value
    return _fetch, (id(value),)


def _values(module: object) -> list[type]:
    """List the frozen dataclasses and enums a module defines."""
    types = [item for item in vars(module).values() if isinstance(item, type)]
    return [item for item in types if issubclass(item, enum.Enum) or _frozen(item)]


def _frozen(item: type) -> bool:
    return bool(getattr(getattr(item, "__dataclass_params__", None), "frozen", False))


class _Sharing(pickle.Pickler):
    dispatch_table = {  # noqa: RUF012 (pickle's own name and kind)
        item: _share
        for module in (destination, effects, events, instructions, messages, orders, source)
        for item in (*_values(module), MigrationConfig, Gone, RequestState, Layout, Trip)
    }


def freeze(value: object) -> bytes:
    """Write down a value and all it refers to; frozen values and enum members are shared."""
    buffer = io.BytesIO()
    _Sharing(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def thaw(frozen: bytes) -> Any:
    """Make a fresh copy of what was written down by this process."""
    return pickle.loads(frozen)
