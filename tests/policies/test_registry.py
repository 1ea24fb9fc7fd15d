"""Policies go by name and parameters; mistakes are answered with what would be right."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from policies.dispatch import dispatch_policies
from policies.registry import (
    BadParamsError,
    DuplicatePolicyError,
    NoParams,
    PolicySpec,
    Registry,
    UnknownPolicyError,
)


@dataclass(frozen=True, slots=True)
class Scale:
    factor: float = 2.0
    negate: bool = False


@pytest.fixture
def registry() -> Registry[int, float]:
    made: Registry[int, float] = Registry("toy policy")

    @made.register("scale", Scale)
    def scale(view: int, params: Scale) -> float:
        """Multiply.

        More text that no help shows.
        """
        return view * params.factor * (-1 if params.negate else 1)

    @made.register("echo", NoParams)
    def echo(view: int, _: NoParams) -> float:
        """Repeat."""
        return view

    return made


@pytest.mark.parametrize(
    ("params", "expected"),
    [({}, 6.0), ({"factor": 3.0}, 9.0), ({"factor": 3}, 9.0), ({"negate": True}, -6.0)],
)
def test_given_params_replace_defaults(
    registry: Registry[int, float], params: Mapping[str, object], expected: float
) -> None:
    assert registry.build(PolicySpec("scale", params))(3) == expected


def test_a_duplicate_name_is_refused(registry: Registry[int, float]) -> None:
    with pytest.raises(DuplicatePolicyError, match="toy policy 'echo' is already registered"):
        registry.register("echo", NoParams)(lambda view, _: view)


def test_an_unknown_name_lists_the_choices(registry: Registry[int, float]) -> None:
    with pytest.raises(UnknownPolicyError, match="no toy policy 'ehco'; there are: echo, scale"):
        registry.build(PolicySpec("ehco"))


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("scale", {"facotr": 1.0}, "has no parameter 'facotr'; it has: factor, negate"),
        ("echo", {"loud": True}, "has no parameter 'loud'; it has: none"),
        ("scale", {"factor": "2"}, "factor must be float, not '2'"),
        ("scale", {"factor": True}, "factor must be float, not True"),
        ("scale", {"negate": 1}, "negate must be bool, not 1"),
    ],
)
def test_a_bad_parameter_names_the_valid_ones(
    registry: Registry[int, float], name: str, params: Mapping[str, object], message: str
) -> None:
    with pytest.raises(BadParamsError, match=message):
        registry.build(PolicySpec(name, params))


def test_a_parameter_without_a_plain_default_is_refused(registry: Registry[int, float]) -> None:
    @dataclass(frozen=True)
    class Bare:
        names: list[str] = field(default_factory=list)

    with pytest.raises(BadParamsError, match="'names' needs a plain default"):
        registry.register("bare", Bare)(lambda view, _: view)


def test_names_and_summaries_are_there_for_help_texts(registry: Registry[int, float]) -> None:
    assert registry.names() == ("echo", "scale")
    assert registry.summary("scale") == "Multiply."
    assert registry.params("scale") is Scale


def test_the_shipped_policies_are_registered_and_say_what_they_do() -> None:
    shipped = {"freeness", "least-requests", "load-aware", "power-of-two", "random", "round-robin"}

    assert shipped <= set(dispatch_policies.names())
    assert all(len(dispatch_policies.summary(name)) > 20 for name in shipped)
