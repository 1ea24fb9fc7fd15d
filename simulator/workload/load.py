"""The single entry to every workload: a trace, a profile, a ServeGen folder, or a generator."""

from pathlib import Path

from simulator.workload import generators, profiled, servegen
from simulator.workload.profile import SCHEMA, read_profile
from simulator.workload.readers import read_trace
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.rows import BadRows, open_text
from simulator.workload.transforms import at_rate, take, with_high_class

GENERATED_REQUESTS = 1000


def load(
    source: str | Path,
    requests: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    high_share: float = 0.0,
    *,
    format_name: str | None = None,
    bad_rows: BadRows | None = None,
) -> list[TraceRequest]:
    """Load `requests` requests of a trace, a profile, a ServeGen folder or a generator.

    Without a number: all of a trace, one pass over a profile or a ServeGen folder, or 1,000 from a
    generator. `rate` is the mean rate wanted, in requests per second; `high_share` the probability
    that a request is of class `high`. `format_name` is a trace's format, for files it cannot be
    recognised from. With `bad_rows`, malformed rows are skipped and counted there. Raises
    WorkloadError saying what is wrong with the source.
    """
    if requests is not None and requests < 1:
        raise WorkloadError(f"ask for 1 or more requests, not {requests}")
    if seed < 0:
        raise WorkloadError(f"a seed must be 0 or more, not {seed}")
    if isinstance(source, str) and source.startswith(generators.PREFIX):
        generator = generators.parse_generator(source)
        workload = generator.generate(requests or GENERATED_REQUESTS, seed)
    elif Path(source).is_dir():
        workload = servegen.generate(Path(source), requests, seed, bad_rows)
    elif format_name is None and is_profile(Path(source)):
        workload = profiled.generate(read_profile(Path(source)), requests=requests, seed=seed)
    else:
        trace = read_trace(Path(source), format_name, bad_rows)
        workload = trace if requests is None else take(trace, requests, seed)
    if rate is not None:
        workload = at_rate(workload, rate)
    return with_high_class(workload, high_share, seed)


def is_profile(path: Path) -> bool:
    """Distinguish a profile from a trace by its first lines."""
    if path.is_dir():
        return False
    with open_text(path) as file:
        try:
            head = file.read(200)
        except (OSError, EOFError) as error:
            raise WorkloadError(f"cannot read {path}: {error}") from error
    return SCHEMA.split("/", maxsplit=1)[0] in head
