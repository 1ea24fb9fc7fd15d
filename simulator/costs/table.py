"""Step costs interpolated in a table of measurements, read from a CSV file.

Two layouts are known by their header:

- ours: `batch_size,context_tokens,time_ms` and, to tell prompts, `prompt_tokens`. A row measures
  either a decode step (`prompt_tokens` 0 or empty) or the prefill of one whole prompt by itself
  (`batch_size` and `context_tokens` 0); `context_tokens` is the sum over the batch;
- splitwise-sim's `perf_model.csv`: `prompt_size,batch_size,token_size,prompt_time,token_time` in
  milliseconds. Prompts are taken from rows of batch size 1; the mean decode step of a row is put
  at the context that its requests have halfway.

Repeated measurements count with their (lower) median.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

from simulator.workload.request import WorkloadError
from simulator.workload.rows import Row, csv_rows

NS_PER_MS = 1_000_000
OURS = ("batch_size", "context_tokens", "time_ms")
SPLITWISE = ("prompt_size", "batch_size", "token_size", "prompt_time", "token_time")
CHOICES = ("model", "hardware", "tensor_parallel")


@dataclass(frozen=True, slots=True)
class Curve:
    """Whole points (x, y) joined by straight lines, rounded down.

    Flat before the first point; the last segment is extended, but never falls. Raises ValueError
    when there is no point, or `xs` do not ascend.
    """

    xs: tuple[int, ...]
    ys: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.xs or len(self.xs) != len(self.ys):
            raise ValueError("a curve needs as many xs as ys, and at least one")
        if any(after <= before for before, after in pairwise(self.xs)):
            raise ValueError("the xs of a curve must ascend")

    def at(self, x: int) -> int:
        """Read the curve at a whole x."""
        if x <= self.xs[0] or len(self.xs) == 1:
            return self.ys[0]
        right = min(bisect_right(self.xs, x), len(self.xs) - 1)
        left = right - 1
        rise = self.ys[right] - self.ys[left]
        if x > self.xs[-1]:
            return self.ys[-1] + max(0, rise) * (x - self.xs[-1]) // (self.xs[-1] - self.xs[left])
        return self.ys[left] + rise * (x - self.xs[left]) // (self.xs[right] - self.xs[left])


@dataclass(frozen=True, slots=True)
class TableCosts:
    """A CostModel through the points of a table, rising wherever the table does.

    `decode` has a curve over the context for each of `batch_sizes`; a batch in between is
    interpolated between its neighbours' curves. `prefill` runs over the length of a prompt computed
    at once; a chunk costs what it adds to its prompt, and the intercept is paid once per step.
    """

    batch_sizes: tuple[int, ...]
    decode: tuple[Curve, ...]
    prefill: Curve
    overhead_ns: int = 0

    @property
    def decode_base_ns(self) -> int:
        """The fastest decode step of the table."""
        return min(min(curve.ys) for curve in self.decode)

    def step_ns(
        self, chunks: Iterable[tuple[int, int]], batch_size: int, context_tokens: int
    ) -> int:
        """See CostModel."""
        decode_ns = self._decode_ns(batch_size, context_tokens) if batch_size else 0
        added_ns = computed = 0
        for start, count in chunks:
            computed += count
            added_ns += self.prefill.at(start + count) - self.prefill.at(start)
        if not computed:
            idle_ns = min(self.decode_base_ns, self.prefill.at(0))
            return self.overhead_ns + (decode_ns or idle_ns)
        extra_ns = max(0, decode_ns - self.decode_base_ns)
        whole_ns = self.prefill.at(0) + added_ns + extra_ns
        return self.overhead_ns + max(decode_ns, whole_ns)

    def prefill_ns(self, tokens: int, squares: int) -> int:
        """See CostModel. Exact for prompts that all have the same length."""
        if tokens <= 0:
            return 0
        length = max(1, squares // tokens)
        return (self.prefill.at(length) - self.prefill.at(0)) * tokens // length

    def _decode_ns(self, batch_size: int, context_tokens: int) -> int:
        ys = tuple(curve.at(context_tokens) for curve in self._near(batch_size))
        return Curve(self._sizes_near(batch_size), ys).at(batch_size)

    def _near(self, batch_size: int) -> tuple[Curve, ...]:
        return self.decode[self._slice(batch_size)]

    def _sizes_near(self, batch_size: int) -> tuple[int, ...]:
        return self.batch_sizes[self._slice(batch_size)]

    def _slice(self, batch_size: int) -> slice:
        right = min(bisect_right(self.batch_sizes, batch_size), len(self.batch_sizes) - 1)
        return slice(max(0, right - 1), right + 1)


class Point(NamedTuple):
    """A measurement of a decode step (`batch_size` > 0), or of a prompt of `tokens`."""

    batch_size: int
    tokens: int
    time_ns: int


def read_table(
    path: Path, where: Mapping[str, str] | None = None, overhead_ns: int = 0
) -> TableCosts:
    """Read a table of costs; `where` keeps the rows with these values in these columns.

    Raises ValueError, naming file, line and column, for an unreadable file, a header of neither
    layout, a malformed row, rows of several models or machines, and when no rows are left.
    """
    try:
        rows = list(csv_rows(path))
        for column in where or ():
            if rows and column not in rows[0].cells:
                raise ValueError(f"{path}, line 1: there is no column {column}")
        chosen = [row for row in rows if _matches(row, where or {})]
        _refuse_a_mixture(path, chosen)
        points = [point for row in chosen for point in _points(row)]
    except WorkloadError as error:
        raise ValueError(str(error)) from error
    return _table(path, points, overhead_ns)


def _matches(row: Row, where: Mapping[str, str]) -> bool:
    return all(row.cells[column] == value for column, value in where.items())


def _refuse_a_mixture(path: Path, rows: list[Row]) -> None:
    for column in CHOICES:
        values = sorted({row.text(column) for row in rows if column in row.cells})
        if len(values) > 1:
            raise ValueError(
                f"{path}: measurements of several {column}s ({', '.join(values)}); choose one"
            )


def _points(row: Row) -> Iterator[Point]:
    if all(column in row.cells for column in OURS):
        yield _our_point(row)
    elif all(column in row.cells for column in SPLITWISE):
        prompt, batch, output = (
            _whole(row, name) for name in ("prompt_size", "batch_size", "token_size")
        )
        if batch == 1:
            yield Point(0, prompt, _time_ns(row, "prompt_time"))
        yield Point(batch, batch * (prompt + output // 2), _time_ns(row, "token_time"))
    else:
        raise ValueError(
            f"{row.path}, line 1: expected the columns {', '.join(OURS)} and prompt_tokens, or "
            f"{', '.join(SPLITWISE)}; found {', '.join(row.cells)}"
        )


def _our_point(row: Row) -> Point:
    prompt = _whole(row, "prompt_tokens") if row.text("prompt_tokens") else 0
    batch, context = _whole(row, "batch_size"), _whole(row, "context_tokens")
    if prompt and (batch or context):
        row.refuse("prompt_tokens", "0 beside a batch: prompts are measured alone")
    if not prompt and not batch:
        row.refuse("batch_size", "1 or more, where there is no prompt")
    return Point(batch, prompt or context, _time_ns(row, "time_ms"))


def _whole(row: Row, column: str) -> int:
    value = row.number(column)
    return int(value) if value == int(value) else row.refuse(column, "a whole number")


def _time_ns(row: Row, column: str) -> int:
    value_ns = round(row.number(column) * NS_PER_MS)
    return value_ns if value_ns > 0 else row.refuse(column, "a time above 0, in milliseconds")


def _table(path: Path, points: list[Point], overhead_ns: int) -> TableCosts:
    by_size: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        by_size[point.batch_size][point.tokens].append(point.time_ns)
    curves = {
        size: Curve(tuple(sorted(at)), tuple(median_low(at[x]) for x in sorted(at)))
        for size, at in sorted(by_size.items())
    }
    prompts = curves.pop(0, None)
    if prompts is None or not curves:
        missing = "prompts (prompt_tokens above 0)" if prompts is None else "decode steps"
        raise ValueError(f"{path}: no measurements of {missing}")
    return TableCosts(tuple(curves), tuple(curves.values()), _from_zero(prompts), overhead_ns)


def _from_zero(prompts: Curve) -> Curve:
    """Extend the prompt curve to zero tokens, in a straight line, but not below 0."""
    if prompts.xs[0] == 0:
        return prompts
    intercept = 0
    if len(prompts.xs) > 1:
        (left, right), (low, high) = prompts.xs[:2], prompts.ys[:2]
        intercept = min(low, max(0, low - (high - low) * left // (right - left)))
    return Curve((0, *prompts.xs), (intercept, *prompts.ys))
