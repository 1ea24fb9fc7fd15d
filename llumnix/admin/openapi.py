"""The OpenAPI document of what the frontend itself answers, made from the types in `schema.py`.

Completions are described as far as the frontend looks at them; whatever else is in their bodies is
between the client and the server.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final

from llumnix import __version__
from llumnix.admin import schema
from llumnix.admin.answer import Answer

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_PRIMITIVES: Final[Mapping[Any, Json]] = {
    str: _TEXT,
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Any: {},
}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `refusals` are the statuses with which it may be refused.

    `streams`: its answer may be a stream of events instead.
    """

    method: str
    path: str
    summary: str
    answer: Any = None
    body: Json | None = None
    parameters: tuple[Json, ...] = ()
    refusals: tuple[int, ...] = ()
    admin: bool = True
    streams: bool = False


def _object(required: Sequence[str] = (), *, closed: bool = True, **properties: Json) -> Json:
    made: Json = {"type": "object", "required": list(required), "properties": properties}
    return {**made, "additionalProperties": False} if closed else made


def _parameter(name: str, where: str, kind: Json) -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": kind}


def _optional(kind: str) -> Json:
    return {"type": [kind, "null"]}


_COMPLETION: Final[Json] = {
    "model": _optional("string"),
    "stream": _optional("boolean"),
    "max_tokens": {"type": ["integer", "null"], "minimum": 0},
    "priority": _optional("integer"),
    "n": _optional("integer"),
    "stop": {"type": ["string", "array", "null"], "items": _TEXT},
    "stream_options": _object(closed=False, include_usage=_optional("boolean")),
}
_ORDER_REFUSALS: Final = (400, 401, 403, 413, 415)

ADMIN: Final = (
    Operation("get", "/llumnix/fleet", "The whole fleet at one moment", schema.FleetStatus),
    Operation(
        "get",
        "/llumnix/events",
        "Remembered events newer than a number",
        schema.News,
        parameters=(_parameter("after", "query", {"type": "integer", "minimum": 0}),),
        refusals=(400,),
    ),
    Operation(
        "get", "/llumnix/requests", "Requests being served", tuple[schema.RequestStatus, ...]
    ),
    Operation(
        "get",
        "/llumnix/explain/{request_id}",
        "Why a request went where it went",
        schema.RequestDecisions,
        parameters=(_parameter("request_id", "path", _TEXT),),
        refusals=(404,),
    ),
    Operation(
        "post",
        "/llumnix/migrate",
        "Move a request; the fleet chooses what is left out",
        schema.MigrationStatus,
        _object(
            request_id=_optional("string"),
            source=_optional("string"),
            destination=_optional("string"),
        ),
        refusals=(*_ORDER_REFUSALS, 404, 409),
    ),
    Operation(
        "post",
        "/llumnix/drain",
        "Drain an instance, or with `on` false let it take requests again",
        schema.DrainStatus,
        _object(["instance_id"], instance_id=_TEXT, on=_optional("boolean")),
        refusals=(*_ORDER_REFUSALS, 404, 502),
    ),
    Operation(
        "post",
        "/llumnix/instances",
        "Add an instance",
        schema.MemberStatus,
        _object(["url"], url=_TEXT),
        refusals=_ORDER_REFUSALS,
    ),
    Operation(
        "delete",
        "/llumnix/instances/{instance_id}",
        "Remove an instance once it is drained, or with `now` at once",
        schema.MemberStatus,
        parameters=(
            _parameter("instance_id", "path", _TEXT),
            _parameter("now", "query", _TEXT),
        ),
        refusals=(404, 415),
    ),
    Operation("get", "/llumnix/openapi.json", "This document", dict[str, Any]),
)
"""The admin API, all of it (a test compares it with the routes)."""

CLIENTS: Final = (
    Operation(
        "post",
        "/v1/completions",
        "A completion, by whichever instance has room",
        dict[str, Any],
        _object(closed=False, prompt={"type": ["string", "array"]}, **_COMPLETION),
        refusals=(400, 401, 404, 408, 413, 415, 417, 429, 503),
        admin=False,
        streams=True,
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "A chat completion, by whichever instance has room",
        dict[str, Any],
        _object(
            closed=False,
            messages={"type": "array", "items": _object(closed=False, role=_TEXT)},
            **_COMPLETION,
        ),
        refusals=(400, 401, 404, 408, 413, 415, 417, 429, 503),
        admin=False,
        streams=True,
    ),
    Operation(
        "get", "/v1/models", "The fleet's models", dict[str, Any], refusals=(401, 503), admin=False
    ),
)
"""What the frontend answers clients by itself, or looks into before an instance does."""


def document(*, clients: bool = False) -> Json:
    """Return the OpenAPI document of the admin API, or of the clients' paths."""
    paths: Json = {}
    definitions: Json = {}
    for each in CLIENTS if clients else ADMIN:
        paths.setdefault(each.path, {})[each.method] = _operation(each, definitions)
    made: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Llumnix, clients' paths" if clients else "Llumnix admin API",
            "version": __version__,
        },
        "paths": paths,
        "components": {
            "schemas": {**definitions, "Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
    return made


def _operation(operation: Operation, definitions: Json) -> Json:
    refusals = {401, 403, *operation.refusals} if operation.admin else operation.refusals
    error = {"$ref": "#/components/schemas/Error"}
    made: Json = {
        "summary": operation.summary,
        "parameters": list(operation.parameters),
        "responses": {
            "200": _content("done", _schema(operation.answer, definitions)),
            **{str(status): _content("refused", error) for status in sorted(refusals)},
        },
    }
    if operation.streams:
        made["responses"]["200"]["content"]["text/event-stream"] = {}
    if operation.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": operation.body}},
        }
    return made


def _content(description: str, kind: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": kind}}}


def _schema(hint: Any, definitions: Json) -> Json:
    if hint in _PRIMITIVES:
        return _PRIMITIVES[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is UnionType:
        inner = _schema(next(each for each in args if each is not NoneType), definitions)
        return {**inner, "type": [inner["type"], "null"]}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0], definitions)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1], definitions)}
    return _reference(hint, definitions)


def _reference(answer: type[Answer], definitions: Json) -> Json:
    name = answer.__name__
    if name not in definitions:
        definitions[name] = {}  # a type may contain itself
        hints = typing.get_type_hints(answer)
        definitions[name] = {
            "type": "object",
            "description": (answer.__doc__ or "").partition("\n")[0],
            "properties": {
                item.metadata.get("key", item.name): _schema(hints[item.name], definitions)
                for item in dataclasses.fields(answer)
                if item.name != "more"
            },
            "required": [
                item.metadata.get("key", item.name)
                for item in dataclasses.fields(answer)
                if item.name != "more"
            ],
        }
    return {"$ref": f"#/components/schemas/{name}"}
