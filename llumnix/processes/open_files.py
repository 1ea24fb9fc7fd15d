"""The limit on open files: each stream takes two, one to its client and one to its instance."""

import resource
from typing import Final

_RESERVED: Final = 64
_LEAST: Final = 16


def raise_limit() -> None:
    """Raise this process's limit to what the system allows it; shells usually give less."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_allowed() -> int:
    """Return how many clients can be connected, each with a stream, within the limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    return max(_LEAST, (soft - _RESERVED) // 2)
