"""Refuse seeds that change nothing: a whole trace, served by a fleet that draws nothing.

Several seeds would then give the same run, and an interval over them would mislead.
"""

from collections.abc import Sequence
from pathlib import Path

from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.workloads import find_workload
from simulator.workload.load import is_profile
from simulator.workload.request import WorkloadError

_DRAWING_NOTHING = ("freeness", "load-aware", "least-requests", "round-robin")
"""Policies that are known to ignore the seed; nothing is assumed of any other."""


def refuse_idle_seed(
    flag: str,
    source: str | Path,
    requests: int | None,
    high_share: float = 0.0,
    configs: Sequence[Config] = (),
) -> None:
    """Raise ConfigError, naming the flag, if no seed would change workload or decisions."""
    if requests is not None or 0.0 < high_share < 1.0 or not is_trace(source):
        return
    if not any(map(_draws, configs)):
        raise ConfigError(
            f"{flag} has no effect: {source} is used whole and unchanged; --requests N takes a "
            "part "
            "of it, chosen by the seed"
        )


def _draws(config: Config) -> bool:
    """Return whether a fleet may use the seed, for its dispatch or for accepting draft tokens."""
    drawing = config.scheduler.dispatch.name not in _DRAWING_NOTHING
    return drawing or config.simulator.draft_tokens > 0


def is_trace(source: str | Path) -> bool:
    """Return whether a workload is read rather than drawn; raises ConfigError if not found."""
    found = find_workload(source)
    try:
        return isinstance(found, Path) and found.is_file() and not is_profile(found)
    except WorkloadError as error:
        raise ConfigError(str(error)) from error
