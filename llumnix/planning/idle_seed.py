"""Whether a seed changes anything: not where a trace is served whole by a fleet that draws nothing.

Several seeds would then be one and the same run, and an interval over them a false promise.
"""

from collections.abc import Sequence
from pathlib import Path

from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.workloads import find_workload
from simulator.workload.load import is_profile
from simulator.workload.request import WorkloadError

_DRAWING_NOTHING = ("freeness", "load-aware", "least-requests", "round-robin")
"""Policies known never to look at the seed; of others, one's own included, nothing is assumed."""


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
            f"{flag} has no effect: all of {source} is taken, as it is; --requests N takes a part "
            "of it, by the seed"
        )


def _draws(config: Config) -> bool:
    """Say whether a fleet may look at the seed: in its dispatch, or for which guesses are right."""
    drawing = config.scheduler.dispatch.name not in _DRAWING_NOTHING
    return drawing or config.simulator.draft_tokens > 0


def is_trace(source: str | Path) -> bool:
    """Say whether a workload is read rather than drawn; raises ConfigError if there is none."""
    found = find_workload(source)
    try:
        return isinstance(found, Path) and found.is_file() and not is_profile(found)
    except WorkloadError as error:
        raise ConfigError(str(error)) from error
