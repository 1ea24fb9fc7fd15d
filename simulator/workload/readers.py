"""Reading a trace in any known format; a format is one small module in `formats/`."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from simulator.workload import formats
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.rows import first_line


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as a trace tells it: `time_s` from any origin, in any order."""

    time_s: float
    prompt_tokens: int
    output_tokens: int
    class_name: str = "normal"
    tenant: str = ""


ArrivalReader = Callable[[Path], Iterable[Arrival]]


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A registered format: `recognises` is asked about the first line of an unknown file."""

    name: str
    recognises: Callable[[str], bool]
    read: ArrivalReader


_FORMATS: dict[str, TraceFormat] = {}


def trace_format(
    name: str, recognises: Callable[[str], bool]
) -> Callable[[ArrivalReader], ArrivalReader]:
    """Register the decorated function as the reader of a format; a duplicate raises ValueError."""

    def register(read: ArrivalReader) -> ArrivalReader:
        if name in _FORMATS:
            raise ValueError(f"the trace format {name!r} is registered twice")
        _FORMATS[name] = TraceFormat(name, recognises, read)
        return read

    return register


@functools.cache
def _import_formats() -> None:
    for module in pkgutil.iter_modules(formats.__path__):
        importlib.import_module(f"{formats.__name__}.{module.name}")


def known_formats() -> Mapping[str, TraceFormat]:
    """All registered formats by name; every module in `formats/` is imported for it."""
    _import_formats()
    return dict(sorted(_FORMATS.items()))


def sniff(path: Path) -> TraceFormat:
    """Tell a file's format by its first line; raises WorkloadError naming the known ones."""
    line = first_line(path)
    for candidate in known_formats().values():
        if candidate.recognises(line):
            return candidate
    raise WorkloadError(
        f"{path}, line 1: not a trace in a known format ({', '.join(known_formats())}); "
        f"it begins with {line[:60]!r}"
    )


def read_trace(path: Path, format_name: str | None = None) -> list[TraceRequest]:
    """Read a whole trace, in order of arrival, the first request arriving at 0.

    Raises WorkloadError for an unknown format, an unreadable or empty file and a malformed row.
    """
    if format_name is None:
        chosen = sniff(path)
    elif format_name in known_formats():
        chosen = known_formats()[format_name]
    else:
        known = ", ".join(known_formats())
        raise WorkloadError(f"unknown trace format {format_name!r}; known: {known}")
    arrivals = sorted(chosen.read(path), key=lambda arrival: arrival.time_s)
    if not arrivals:
        raise WorkloadError(f"{path} holds no requests")
    origin_s = arrivals[0].time_s
    return [
        TraceRequest(
            index,
            # To the microsecond: what lies below it is noise of the subtraction.
            round(arrival.time_s - origin_s, 6),
            arrival.prompt_tokens,
            arrival.output_tokens,
            arrival.class_name,
            arrival.tenant,
        )
        for index, arrival in enumerate(arrivals)
    ]
