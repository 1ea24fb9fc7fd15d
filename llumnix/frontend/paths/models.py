"""The models of the whole fleet, as one server would list them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance


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
        message = f"The model `{model_id}` does not exist."
        return Refusal(404, message, "model_not_found", "model").response()
    return _json(model)


def _json(value: object) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json")
