"""The policy in policies/README.md works as printed, in plain Python rows, and so does its test."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies
from policies.dispatch import dispatch_policies
from policies.registry import NoParams
from policies.types import InstanceLoad
from policies.view import DispatchView, Proposal
from tests.policies.fleets import chosen, fleet, law, load, load_lists, request, scheduler

README = Path(policies.__file__).parent / "README.md"


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the test registers."""
    monkeypatch.setattr(dispatch_policies, "_entries", dict(dispatch_policies._entries))


def test_the_example_in_the_readme_works(clean_registry: None) -> None:
    policy, test, *_ = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace: dict[str, object] = {"__name__": __name__}
    exec(policy, namespace)  # the README's own lines
    exec(test, namespace)
    law_of_the_readme = namespace["test_the_shortest_queue_wins"]
    assert callable(law_of_the_readme)
    law_of_the_readme()

    assert "shortest-queue" in dispatch_policies.names()
    body = [line for line in policy.splitlines() if line.strip()]
    assert len(body) <= 15


@law
@given(loads=load_lists(), tokens=st.integers(1, 5_000))
def test_rows_say_what_the_columns_say(loads: list[InstanceLoad], tokens: int) -> None:
    """load-aware written row by row decides like the shipped one."""
    seen: list[tuple[list[float], list[float]]] = []
    shipped = dispatch_policies._entry("load-aware").decide

    def by_rows(view: DispatchView) -> Proposal:
        scores = [
            1.0
            - (
                row.physical_tokens
                + row.reserved_tokens
                + row.queued_demand_tokens
                + row.in_flight_tokens
            )
            / row.capacity_tokens
            for row in view.rows()
        ]
        seen.append((scores, list(shipped(view, NoParams()).scores)))
        return Proposal(scores)

    brain = scheduler("load-aware")
    brain._chooser.policy, brain._chooser.small_policy = by_rows, None
    for number in range(3):
        brain.dispatch(request(f"r{number}", tokens), fleet(*loads), 0.0)

    for rows, columns in seen:
        assert rows == pytest.approx(columns)


def test_a_policy_that_answers_nonsense_is_an_error_not_a_guess() -> None:
    brain = scheduler("load-aware")
    brain._chooser.small_policy = None
    snapshot = fleet(load("a"), load("b"))
    for nonsense in ([1.0], [1.0, float("nan")], [1.0, 2.0, 3.0]):
        brain._chooser.policy = lambda view, scores=nonsense: Proposal(scores)  # type: ignore[misc]
        with pytest.raises(ValueError, match="must give one number per instance"):
            brain.dispatch(request(), snapshot, 0.0)
    brain._chooser.policy = lambda view: Proposal([0.0, 1.0])
    assert chosen(brain.dispatch(request(), snapshot, 0.0)) == "b"
