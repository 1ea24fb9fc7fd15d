"""Who sends a request, and what that caller may ask for."""

from dataclasses import dataclass, field
from typing import Final

from llumnix.frontend.access.limits import Limits
from llumnix.frontend.request.request import Classes


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key. `name` tells a tenant's keys apart, in lists and logs.

    Requests are of `default_class` (None: the fleet's default) unless they ask for another, and
    never more urgent than `highest_class` (None: no more urgent than the default one).
    """

    tenant: str = ""
    name: str = ""
    default_class: str | None = None
    highest_class: str | None = None
    limits: Limits = field(default_factory=Limits)

    def classes(self, fleet: Classes) -> Classes:
        """Return the fleet's classes as this caller may use them."""
        default = self.default_class or fleet.default
        highest = self.highest_class or default
        at, ceiling = fleet.names.index(default), fleet.names.index(highest)
        return Classes(fleet.names, fleet.names[max(at, ceiling)], ceiling)


ANYONE: Final = Caller()
"""Every client of a frontend without keys: no tenant, no limits, any class (`Visit.classes`)."""
