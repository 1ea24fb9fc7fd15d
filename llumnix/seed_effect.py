"""Whether a seed changes anything: a trace served whole by a policy that draws nothing has none.

Several seeds would then be one and the same run, and an interval over them a false promise.
"""

from collections.abc import Sequence
from pathlib import Path

from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.workload_sources import find_workload
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
    if all(config.scheduler.dispatch.name in _DRAWING_NOTHING for config in configs):
        raise ConfigError(
            f"{flag} has no effect: all of {source} is taken, as it is; --requests N takes a part "
            "of it, by the seed"
        )


def is_trace(source: str | Path) -> bool:
    """Say whether a workload is read rather than drawn; raises ConfigError if there is none."""
    found = find_workload(source)
    try:
        return isinstance(found, Path) and found.is_file() and not is_profile(found)
    except WorkloadError as error:
        raise ConfigError(str(error)) from error
