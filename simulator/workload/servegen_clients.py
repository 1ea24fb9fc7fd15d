"""The clients of a ServeGen folder, as its files describe them (see `servegen`)."""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from policies.types import FloatColumn, IntColumn
from simulator.workload.request import WorkloadError
from simulator.workload.rows import BadRows, RowError, csv_rows, open_text, pass_over

WINDOW_S = 600.0
COLUMNS = ("window_start_s", "rate_rps", "cv", "pattern", "shape", "scale_s")
TRACE_NAME = re.compile(r"chunk-(\w+)-trace\.csv")


@dataclass(frozen=True, slots=True)
class Window:
    """Ten minutes of a client: how many requests, and the shape of the gaps between them."""

    requests: int
    pattern: str
    shape: float

    def offsets_s(self, rng: np.random.Generator) -> FloatColumn:
        """Draw when the requests arrive, from the start of the window."""
        draw = rng.gamma if self.pattern == "Gamma" else rng.weibull
        # One gap more than requests: the last one leads out of the window.
        due: FloatColumn = np.cumsum(draw(self.shape, size=self.requests + 1))
        if not 0.0 < due[-1] < float("inf"):
            # A shape so extreme that all gaps are zero, or some endless.
            due = np.arange(1.0, self.requests + 2.0)
        offsets_s: FloatColumn = due[:-1] * (WINDOW_S / due[-1])
        return offsets_s


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lengths in tokens and their cumulative weights."""

    tokens: IntColumn
    cumulative: FloatColumn

    def draw(self, count: int, rng: np.random.Generator) -> IntColumn:
        """Draw lengths."""
        drawn = rng.random(count) * self.cumulative[-1]
        lengths: IntColumn = self.tokens[np.searchsorted(self.cumulative, drawn, side="right")]
        return lengths


@dataclass(frozen=True, slots=True)
class Client:
    """One client: its windows with requests, and its lengths from given times on."""

    name: str
    windows: Mapping[float, Window]
    lengths_from_s: Sequence[float]
    lengths: Sequence[tuple[Histogram, Histogram]]

    def lengths_at(self, time_s: float) -> tuple[Histogram, Histogram]:
        """Return the histograms of prompts and outputs in force at a time."""
        return self.lengths[max(0, bisect_right(self.lengths_from_s, time_s) - 1)]


def read_clients(folder: Path, bad_rows: BadRows | None = None) -> list[Client]:
    """Read the clients that sent requests, by name; errors as `servegen.generate` says."""
    traces = {
        match[1]: path for path in folder.iterdir() if (match := TRACE_NAME.fullmatch(path.name))
    }
    if not traces:
        raise WorkloadError(f"{folder} is not a ServeGen folder: it has no chunk-N-trace.csv")
    clients = []
    for name, path in sorted(traces.items(), key=lambda item: (len(item[0]), item[0])):
        windows = _read_windows(path, bad_rows)
        if not windows:
            continue
        try:
            lengths = _read_lengths(folder / f"chunk-{name}-dataset.json", bad_rows)
        except RowError as error:
            pass_over(error, bad_rows)
            continue
        clients.append(Client(name, windows, list(lengths), list(lengths.values())))
    return clients


def _read_windows(path: Path, bad_rows: BadRows | None) -> dict[float, Window]:
    windows = {}
    for row in csv_rows(path, bad_rows, header=COLUMNS):
        try:
            start_s = row.number("window_start_s")
            if start_s % WINDOW_S:
                row.refuse("window_start_s", f"a multiple of {WINDOW_S:g} s")
            requests = round(row.number("rate_rps") * WINDOW_S)
            if requests == 0:
                continue
            pattern = row.text("pattern")
            if pattern not in ("Gamma", "Weibull"):
                row.refuse("pattern", "Gamma or Weibull")
            shape = row.number("shape")
            if shape == 0.0:
                row.refuse("shape", "a number above 0")
            windows[start_s] = Window(requests, pattern, shape)
        except RowError as error:
            pass_over(error, bad_rows)
    return windows


def _read_lengths(path: Path, bad_rows: BadRows | None) -> dict[float, tuple[Histogram, Histogram]]:
    if not path.is_file():
        raise RowError(
            f"{path} is missing: the lengths of a client with requests. Without its trace file, "
            "or with bad rows skipped, the client is left out"
        )
    lengths = {}
    for start, fields in _json_object(path).items():
        try:
            pair = [
                _histogram(path, start, fields, name) for name in ("input_tokens", "output_tokens")
            ]
        except RowError as error:
            pass_over(error, bad_rows)
            continue
        prompts, outputs = pair
        if prompts is not None and outputs is not None:
            lengths[float(start)] = (prompts, outputs)
    if not lengths:
        raise RowError(f"{path} holds no lengths of a client with requests")
    return dict(sorted(lengths.items()))


def _json_object(path: Path) -> dict[str, object]:
    with open_text(path) as file:
        try:
            value = json.load(file)
        except json.JSONDecodeError as error:
            where = f"{path}, line {error.lineno}, column {error.colno}"
            raise RowError(f"{where}: expected JSON, {error.msg}") from error
        except (ValueError, RecursionError, OSError, EOFError) as error:
            raise RowError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise RowError(f"{path}, line 1, column 1: expected a JSON object")
    return value


def _histogram(path: Path, start: str, fields: object, name: str) -> Histogram | None:
    """Read `{45: 0.25, 46: 0.75}`, a Python literal in a JSON string; None if it is empty."""
    where = f"{path}, window {start}, column {name}"
    text = fields.get(name) if isinstance(fields, dict) else None
    if (
        not start.isdecimal()
        or not isinstance(text, str)
        or not re.fullmatch(r"\{.*\}", text.strip())
    ):
        raise RowError(
            f"{where}: expected a histogram like {{45: 0.25, 46: 0.75}} (multimodal folders, which "
            "have other columns, are not read)"
        )
    cells = text.strip()[1:-1].replace(":", ",").split(",")
    if cells == [""]:
        return None
    try:
        table = np.array([float(cell) for cell in cells]).reshape(-1, 2)
    except ValueError as error:
        raise RowError(f"{where}: expected a histogram like {{45: 0.25, 46: 0.75}}") from error
    tokens, weights = table[:, 0], table[:, 1]
    if not (np.isfinite(table).all() and (table >= 0).all() and weights.sum() > 0):
        raise RowError(f"{where}: expected lengths and weights of 0 or more")
    whole = np.maximum(1, np.rint(tokens)).astype(np.int64)
    return Histogram(whole, np.cumsum(weights))
