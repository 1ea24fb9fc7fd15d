"""A registry of policies: registered by a decorator, configured by a name and parameters."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Generic, TypeVar

View = TypeVar("View")
Answer = TypeVar("Answer")
Params = TypeVar("Params")


class PolicyError(ValueError):
    """A policy is registered or configured wrongly; the message says what would be valid.

    PolicyError
    ├── DuplicatePolicyError   two policies claim one name
    ├── UnknownPolicyError     no policy has this name; the message lists the choices
    └── BadParamsError         a parameter is unknown or has the wrong type; the message lists them
    """


class DuplicatePolicyError(PolicyError):
    """Two policies claim one name."""


class UnknownPolicyError(PolicyError):
    """No policy has this name."""


class BadParamsError(PolicyError):
    """A policy was given an unknown parameter, or one of the wrong type."""


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """Which policy to use: its registered name, and the parameters that are not the defaults."""

    name: str = field(metadata={"help": "name of the policy", "unit": ""})
    params: Mapping[str, object] = field(
        default_factory=dict,
        metadata={"help": "parameters, where they differ from the policy's defaults", "unit": ""},
    )


@dataclass(frozen=True, slots=True)
class NoParams:
    """The parameters of a policy that takes none."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[View, Answer]):
    decide: Callable[[View, Any], Answer]
    params: type[Any]
    summary: str


class Registry(Generic[View, Answer]):
    """Policies of one kind, by name. A policy is a function of a view and of its parameters."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, _Entry[View, Answer]] = {}

    def register(
        self, name: str, params: type[Params]
    ) -> Callable[[Callable[[View, Params], Answer]], Callable[[View, Params], Answer]]:
        """Register the decorated function; `params` is a dataclass with a default everywhere.

        Raises DuplicatePolicyError when the name is taken, BadParamsError without a default.
        """

        def add(decide: Callable[[View, Params], Answer]) -> Callable[[View, Params], Answer]:
            if name in self._entries:
                raise DuplicatePolicyError(f"{self.kind} {name!r} is already registered")
            for known in fields(params):  # type: ignore[arg-type]
                if known.default is MISSING:
                    raise BadParamsError(
                        f"{self.kind} {name!r}: {known.name!r} needs a plain default"
                    )
            summary = (decide.__doc__ or "").strip().partition("\n")[0]
            self._entries[name] = _Entry(decide, params, summary)
            return decide

        return add

    def names(self) -> tuple[str, ...]:
        """List the registered names in alphabetical order."""
        return tuple(sorted(self._entries))

    def summary(self, name: str) -> str:
        """Return the first line of the policy's docstring, for help texts."""
        return self._entry(name).summary

    def params(self, name: str) -> type[Any]:
        """Return the dataclass of the policy's parameters, with their defaults and help texts."""
        return self._entry(name).params

    def build(self, spec: PolicySpec) -> Callable[[View], Answer]:
        """Bind a policy to its parameters. Raises UnknownPolicyError or BadParamsError."""
        entry = self._entry(spec.name)
        known = {param.name: param.default for param in fields(entry.params)}
        for key, value in spec.params.items():
            self._check(spec.name, known, key, value)
        params = entry.params(**spec.params)
        decide = entry.decide
        return lambda view: decide(view, params)

    def _entry(self, name: str) -> _Entry[View, Answer]:
        try:
            return self._entries[name]
        except KeyError:
            choices = ", ".join(self.names())
            raise UnknownPolicyError(f"no {self.kind} {name!r}; there are: {choices}") from None

    def _check(self, name: str, known: Mapping[str, object], key: str, value: object) -> None:
        if key not in known:
            choices = ", ".join(known) or "none"
            raise BadParamsError(
                f"{self.kind} {name!r} has no parameter {key!r}; it has: {choices}"
            )
        wanted = type(known[key])
        # An int is a valid float, but a bool (an int to Python) is neither.
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise BadParamsError(
                f"{self.kind} {name!r}: {key} must be {wanted.__name__}, not {value!r}"
            )
