"""Objects that tell when something about them changes, whoever changes it.

What is kept up to date instead of being computed anew must not miss a change, wherever it is made.
"""

from collections.abc import Callable
from typing import ClassVar


class Watched:
    """Calls its watcher, if it has one, after one of the attributes in `WATCHED` was set."""

    __slots__ = ("_watcher",)
    _watcher: Callable[[str], object]
    WATCHED: ClassVar[frozenset[str]] = frozenset()

    def watch(self, watcher: Callable[[str], object]) -> None:
        """Call this from now on, in place of the watcher there was, with the attribute's name."""
        object.__setattr__(self, "_watcher", watcher)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name in self.WATCHED:
            watcher = getattr(self, "_watcher", None)
            if watcher is not None:
                watcher(name)
