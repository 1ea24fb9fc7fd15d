"""Which instances can replace each other.

A request goes to an instance whose group serves its model; moves stay within one group.
"""

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    """What an instance does for a request. Every instance does everything so far."""

    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Group:
    """What makes instances interchangeable.

    `models` are the names under which clients may request it; empty where no request names a model.
    `layout` is a digest of the KV cache's memory layout, empty where it is not known. A server
    without our plugin has no layout: no KV can be copied from or to it.
    """

    models: frozenset[str] = frozenset()
    layout: str = ""
    role: Role = Role.WHOLE

    def serves(self, model: str | None) -> bool:
        """Whether a request for a model can be sent here; None is a request for any."""
        return model is None or model in self.models

    def recomputes_for(self, origin: "Group") -> bool:
        """Whether streams of another group can continue here, KV aside."""
        return self.models == origin.models and self.role is origin.role


ANY = Group()
"""The group of every instance where there is only one, as in a simulated fleet."""
