"""The one schema of the admin API: what a frontend writes is what its clients read."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llumnix.admin.answer import Answer, SchemaError
from llumnix.admin.schema import (
    DrainStatus,
    EventRecord,
    FleetStatus,
    InstanceStatus,
    MigrationStatus,
    News,
    RequestDecisions,
    RequestStatus,
    read_requests,
)
from tests.llumnix.frontend.stage import Stage, until
from tests.llumnix.frontend.stub import Script

WHOLE: tuple[type[Answer], ...] = (
    FleetStatus,
    News,
    RequestDecisions,
    RequestStatus,
    DrainStatus,
    MigrationStatus,
)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_PLAIN: dict[object, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5),
    int: st.integers(-5, 1 << 60),
    float: _FLOATS,
    bool: st.booleans(),
    float | None: st.none() | _FLOATS,
    str | None: st.none() | st.text(max_size=5),
    tuple[str, ...]: st.lists(st.text(max_size=5), max_size=3).map(tuple),
    tuple[float, ...]: st.lists(_FLOATS, max_size=3).map(tuple),
    Mapping[str, str]: st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    Mapping[str, float | None]: st.dictionaries(st.text(max_size=5), st.none() | _FLOATS),
    # Beside an event's own keys: those of migrations, and any others.
    Mapping[str, Any]: st.dictionaries(
        st.sampled_from(["source", "stages", "copied_tokens"]), st.integers() | st.text(max_size=5)
    ),
}


def answers(cls: type[Answer]) -> st.SearchStrategy[Answer]:
    """Draw any answer of a class."""
    return st.builds(cls, **{name: _values(hint) for name, hint in get_type_hints(cls).items()})


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if isinstance(hint, type) and issubclass(hint, Answer):
        return answers(hint)
    return st.lists(answers(hint.__args__[0]), max_size=2).map(tuple)


@settings(deadline=None, max_examples=40)
@given(answer=st.one_of([answers(cls) for cls in WHOLE]))
def test_what_is_written_is_read_back(answer: Answer) -> None:
    text = json.dumps(answer.to_json())

    assert type(answer).from_json(json.loads(text)) == answer


@settings(deadline=None, max_examples=20)
@given(answer=answers(FleetStatus))
def test_keys_of_a_newer_frontend_are_left_out_and_those_of_an_older_are_defaults(
    answer: FleetStatus,
) -> None:
    newer = {**answer.to_json(), "from the future": [1]}
    assert FleetStatus.from_json(newer) == answer
    older = {"instances": newer["instances"]}
    assert FleetStatus.from_json(older) == FleetStatus(answer.instances)


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        (None, "FleetStatus: expected an object"),
        ([], "FleetStatus: expected an object"),
        ({}, "FleetStatus.instances is missing"),
        ({"instances": {}}, "FleetStatus.instances: expected a list"),
        ({"instances": [7]}, "InstanceStatus: expected an object, not int"),
        ({"instances": [{}]}, "InstanceStatus.id is missing"),
        ({"instances": [{"id": "a", "running": True}]}, "running: expected int, not bool"),
        ({"instances": [{"id": "a", "running": 1.5}]}, "running: expected int, not float"),
        ({"instances": [{"id": "a", "age_s": "1"}]}, "age_s: expected float, not str"),
        ({"instances": [], "totals": None}, "Totals: expected an object, not NoneType"),
        ({"instances": [], "now_s": None}, "now_s: expected float, not NoneType"),
    ],
)
def test_what_is_wrong_is_named(plain: object, told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        FleetStatus.from_json(plain)


def test_an_events_own_keys_cannot_be_hidden_by_those_beside_them() -> None:
    event = EventRecord(3, "drain", 1.0, "text", {"kind": "x", "seq": 9, "source": "a"})

    assert event.to_json() == {
        "seq": 3,
        "kind": "drain",
        "at_s": 1.0,
        "text": "text",
        "source": "a",
    }


async def test_what_a_frontend_answers_is_what_the_schema_says() -> None:
    """Every answer, with something in it, has the schema's keys, all of them and no other."""
    async with Stage(3) as stage:
        stage.report("b", physical_tokens=40, running=(0, 2))
        stage.stubs[0].scripts.append(Script(3, then="hang"))
        async with stage.post(X_Request_Id="mine"):
            await until(lambda: stage.fleet.requests.active)
            await until(lambda: next(iter(stage.fleet.requests.active.values())).instance_id)
            stage.order("m", "a", "b")
            stage.started("m", next(iter(stage.fleet.requests.active)), "a", "b")
            plain = {
                path: await _get(stage, path)
                for path in ("fleet", "events", "requests", "explain/mine")
            }
            (request,) = read_requests(plain["requests"])
        async with stage.session.post(
            "/llumnix/drain", json={"instance_id": "c", "on": True}
        ) as response:
            plain["drain"] = await response.json()

    fleet = FleetStatus.from_json(plain["fleet"])
    news = News.from_json(plain["events"])
    decisions = RequestDecisions.from_json(plain["explain/mine"])
    drained = DrainStatus.from_json(plain["drain"])
    told: dict[str, Answer] = {
        "fleet": fleet,
        "events": news,
        "explain/mine": decisions,
        "drain": drained,
    }
    for name, answer in told.items():
        assert answer.to_json() == plain[name]
    assert [request.to_json()] == plain["requests"]
    assert [each.instance_id for each in fleet.instances] == ["a", "b", "c"]
    assert [each.migration_id for each in fleet.migrations] == ["m"]
    (started,) = (event for event in news.events if event.kind == "migration_started")
    assert MigrationStatus.from_json(started.more) == fleet.migrations[0]
    assert [decision.kind for decision in decisions.decisions] == ["dispatch", "migrate"]
    assert drained == DrainStatus("c", "draining")


async def _get(stage: Stage, path: str) -> Any:
    async with stage.session.get(f"/llumnix/{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


def test_every_instance_has_all_its_keys_whatever_is_known() -> None:
    """A client must not have to ask whether a key is there."""
    names = {item.name for item in dataclasses.fields(InstanceStatus)}
    assert InstanceStatus("a").to_json().keys() == (names - {"instance_id"}) | {"id"}
