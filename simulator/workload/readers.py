"""Reading a trace in any known format; a format is one small module in `formats/`."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from simulator.workload import formats
from simulator.workload.request import PromptBlocks, TraceRequest, WorkloadError
from simulator.workload.rows import BadRows, Row, RowError, csv_rows, first_line, pass_over


@dataclass(frozen=True, slots=True)
class TraceArrival:
    """A request as recorded in a trace: `time_s` from any origin, in any order."""

    time_s: float
    prompt_tokens: int
    output_tokens: int
    class_name: str = "normal"
    tenant: str = ""
    prompt_blocks: PromptBlocks | None = None


# Yields the rows of a file; skips malformed lines, or raises (see BadRows).
RowSource = Callable[[Path, BadRows | None], Iterator[Row]]
# Reads one row. None: the row is well-formed, but holds no request that was served.
RowReader = Callable[[Row], TraceArrival | None]


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A registered format: `recognises` is called with the first line of an unknown file.

    `together` sees all arrivals at once, for what no row can tell by itself.
    """

    name: str
    recognises: Callable[[str], bool]
    rows: RowSource
    arrival: RowReader
    together: Callable[[list[TraceArrival]], list[TraceArrival]] | None = None

    def read(self, path: Path, bad_rows: BadRows | None = None) -> list[TraceArrival]:
        """Read a whole file row by row; bad rows are counted in `bad_rows`, or raised."""
        arrivals = []
        for row in self.rows(path, bad_rows):
            try:
                arrival = self.arrival(row)
            except RowError as error:
                pass_over(error, bad_rows)
                continue
            if arrival is not None:
                arrivals.append(arrival)
        return arrivals if self.together is None else self.together(arrivals)


_FORMATS: dict[str, TraceFormat] = {}


def trace_format(
    name: str,
    recognises: Callable[[str], bool],
    rows: RowSource = csv_rows,
    together: Callable[[list[TraceArrival]], list[TraceArrival]] | None = None,
) -> Callable[[RowReader], RowReader]:
    """Register the decorated function as the reader of a format's rows.

    Raises ValueError for a name that is taken.
    """

    def register(arrival: RowReader) -> RowReader:
        if name in _FORMATS:
            raise ValueError(f"the trace format {name!r} is registered twice")
        _FORMATS[name] = TraceFormat(name, recognises, rows, arrival, together)
        return arrival

    return register


def has_columns(*names: str) -> Callable[[str], bool]:
    """Recognise a CSV file by columns its header must have, in any order, among others."""
    return lambda line: set(names) <= {cell.strip() for cell in line.split(",")}


@functools.cache
def _import_formats() -> None:
    for module in pkgutil.iter_modules(formats.__path__):
        importlib.import_module(f"{formats.__name__}.{module.name}")


def known_formats() -> Mapping[str, TraceFormat]:
    """All registered formats by name; every module in `formats/` is imported for it."""
    _import_formats()
    return dict(sorted(_FORMATS.items()))


def sniff(path: Path) -> TraceFormat:
    """Detect a file's format by its first line; raises WorkloadError naming the known ones."""
    line = first_line(path)
    for candidate in known_formats().values():
        if candidate.recognises(line):
            return candidate
    raise WorkloadError(
        f"{path}, line 1: not a trace in a known format ({', '.join(known_formats())}); "
        f"it begins with {line[:60]!r}"
    )


def read_trace(
    path: Path, format_name: str | None = None, bad_rows: BadRows | None = None
) -> list[TraceRequest]:
    """Read a whole trace, in order of arrival, the first request arriving at 0.

    Raises WorkloadError for an unknown format, an unreadable or empty file and a malformed row;
    with `bad_rows`, malformed rows are skipped and counted there instead.
    """
    if format_name is None:
        chosen = sniff(path)
    elif format_name in known_formats():
        chosen = known_formats()[format_name]
    else:
        known = ", ".join(known_formats())
        raise WorkloadError(f"unknown trace format {format_name!r}; known: {known}")
    arrivals = sorted(chosen.read(path, bad_rows), key=lambda arrival: arrival.time_s)
    if not arrivals:
        skipped = f"; {bad_rows.first}" if bad_rows is not None and bad_rows.first else ""
        raise WorkloadError(f"{path} holds no requests{skipped}")
    origin_s = arrivals[0].time_s
    return [
        TraceRequest(
            index,
            # To the microsecond: anything below is noise of the subtraction.
            round(arrival.time_s - origin_s, 6),
            arrival.prompt_tokens,
            arrival.output_tokens,
            arrival.class_name,
            arrival.tenant,
            arrival.prompt_blocks,
        )
        for index, arrival in enumerate(arrivals)
    ]
