"""Who is to belong to the fleet: what several sources list, less what was removed by hand. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from llumnix.instances.endpoints.endpoint import Endpoint

HAND = "by hand"
"""The source of members that were added through the admin API."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done so that the present members become the wanted ones.

    A member with another key or other TLS settings is `updated` where it is: none of its streams
    is touched.
    """

    added: tuple[Endpoint, ...] = ()
    updated: tuple[Endpoint, ...] = ()
    removed: tuple[str, ...] = ()


def change(present: Mapping[str, Endpoint], wanted: Mapping[str, Endpoint]) -> Change:
    """Return what turns the present members into the wanted ones, both by URL."""
    return Change(
        added=tuple(each for url, each in wanted.items() if url not in present),
        updated=tuple(
            each for url, each in wanted.items() if url in present and present[url] != each
        ),
        removed=tuple(url for url in present if url not in wanted),
    )


@dataclass(slots=True)
class Membership:
    """What each source lists, in the order in which sources were heard of first.

    A member that was removed by hand stays out until it is added by hand, or until no source has
    listed it for a while: one that lists it anew means it.
    """

    _listed: dict[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    _removed: set[str] = field(default_factory=set)

    def list(self, source: str, endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
        """Note what a source lists from now on; return the URLs that it lists twice."""
        unique: dict[str, Endpoint] = {}
        twice = []
        for each in endpoints:
            if each.url in unique:
                twice.append(each.url)
            unique.setdefault(each.url, each)
        self._listed[source] = tuple(unique.values())
        self._removed &= {each.url for listed in self._listed.values() for each in listed}
        return tuple(twice)

    def drop(self, source: str) -> None:
        """Note that a source is no longer listened to."""
        self._listed.pop(source, None)

    def add(self, endpoint: Endpoint) -> None:
        """Add a member by hand, even if it was removed so."""
        others = [each for each in self._listed.get(HAND, ()) if each.url != endpoint.url]
        self._listed[HAND] = (*others, endpoint)
        self._removed.discard(endpoint.url)

    def remove(self, url: str) -> None:
        """Remove a member by hand, whatever lists it."""
        self.list(HAND, [each for each in self._listed.get(HAND, ()) if each.url != url])
        self._removed.add(url)

    def wanted(self) -> dict[str, Endpoint]:
        """Return the members by URL; of two sources that list one, the first heard of counts."""
        found: dict[str, Endpoint] = {}
        for listed in self._listed.values():
            for each in listed:
                if each.url not in self._removed:
                    found.setdefault(each.url, each)
        return found
