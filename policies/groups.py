"""Which instances can stand in for each other: nothing is dispatched or paired across groups."""

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    """What an instance does for a request. All do everything so far."""

    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Group:
    """What makes instances interchangeable.

    `models` are the names a request may ask for there; none, where nobody asks for a model by name.
    `layout` is a digest of how KV lies in memory, empty where it is not known. A server without
    our plugin has no layout: nothing can be copied from or to it.
    """

    models: frozenset[str] = frozenset()
    layout: str = ""
    role: Role = Role.WHOLE

    def serves(self, model: str | None) -> bool:
        """Return whether a request for a model can be sent here; None is a request for any."""
        return model is None or model in self.models

    def recomputes_for(self, origin: "Group") -> bool:
        """Return whether streams of another group can be carried on here, KV aside."""
        return self.models == origin.models and self.role is origin.role


ANY = Group()
"""The group of all instances where there is but one, as in a simulated fleet."""
