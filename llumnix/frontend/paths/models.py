"""What a server says of itself, said for the whole fleet: above all, its models."""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from llumnix.frontend.context import ServingContext
from llumnix.frontend.request.refusal import no_such_model
from llumnix.instances.instance import Instance

_MODELS = "/v1/models"


def own_answer(context: ServingContext, path: str) -> web.Response:
    """Return the answer to a path that is ours to answer."""
    if path == "/ping":
        return web.Response()
    if path == "/load":
        return _json({"server_load": len(context.fleet.requests.active)})
    alive = context.fleet.instances.alive()
    if path == _MODELS:
        return models_response(alive)
    return model_response(alive, unquote(path.removeprefix(f"{_MODELS}/")))


def merged_models(instances: Iterable[Instance]) -> Mapping[str, Mapping[str, Any]]:
    """Return the models of all instances by id, each as the first that has it lists it."""
    merged: dict[str, Mapping[str, Any]] = {}
    for instance in instances:
        for model in instance.models:
            merged.setdefault(str(model.get("id")), model)
    return merged


def models_response(instances: Iterable[Instance]) -> web.Response:
    """Return the response of GET /v1/models."""
    return _json({"object": "list", "data": list(merged_models(instances).values())})


def model_response(instances: Iterable[Instance], model_id: str) -> web.Response:
    """Return the response of GET /v1/models/{id}; an id may hold slashes."""
    model = merged_models(instances).get(model_id)
    if model is None:
        return no_such_model(model_id).response()
    return _json(model)


def _json(value: object) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json")
