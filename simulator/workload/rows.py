"""The rows of a trace file, read one by one; what is wrong is named by file, line and column."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from simulator.workload.request import WorkloadError

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; its readers raise WorkloadError naming file, line, column and what was expected."""

    path: Path
    line: int
    cells: Mapping[str, object]

    def tokens(self, column: str) -> int:
        """Read a length in tokens: a whole number.

        Zero is read as one: a served request computes at least one prompt and one output token.
        """
        value = self.cells.get(column)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._refuse(column, "a whole number of tokens, 0 or more")
        return max(1, value)

    def number(self, column: str) -> float:
        """Read a number, 0 or more."""
        value = self.cells.get(column)
        try:
            number = float(value) if isinstance(value, str | int | float) else float("nan")
        except ValueError:
            number = float("nan")
        if not 0.0 <= number < float("inf"):
            self._refuse(column, "a number, 0 or more")
        return number

    def moment_s(self, column: str) -> float:
        """Read a date and time, ISO 8601 like `2023-11-16 18:15:46.6805900` (UTC unless it says).

        Gives seconds since 1970.
        """
        try:
            moment = datetime.fromisoformat(str(self.cells.get(column)))
        except ValueError:
            self._refuse(column, "a time like 2023-11-16 18:15:46.6805900")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def text(self, column: str, default: str = "") -> str:
        """Read a text that may be absent."""
        value = self.cells.get(column, default)
        return value if isinstance(value, str) else self._refuse(column, "a text")

    def _refuse(self, column: str, expected: str) -> NoReturn:
        value = self.cells.get(column)
        found = "nothing" if value in (None, "") else repr(value)
        raise WorkloadError(
            f"{self.path}, line {self.line}, column {column}: expected {expected}, found {found}"
        )


def open_text(path: Path) -> io.TextIOBase:
    """Open a plain or gzipped text file, whatever its name ends in."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP_MAGIC
        if zipped:
            return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise WorkloadError(f"cannot read {path}: {error.strerror or error}") from error


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header line; blank lines are skipped."""
    with open_text(path) as file:
        lines = csv.reader(_unspoilt(file, path))
        header = next(lines, [])
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise WorkloadError(
                    f"{path}, line {lines.line_num}, column {min(len(cells), len(header)) + 1}: "
                    f"expected {len(header)} columns ({', '.join(header)}), found {len(cells)}"
                )
            yield Row(path, lines.line_num, dict(zip(header, cells, strict=True)))


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object a line; blank lines are skipped."""
    with open_text(path) as file:
        for number, line in enumerate(_unspoilt(file, path), start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                raise WorkloadError(
                    f"{path}, line {number}, column {error.colno}: expected JSON, {error.msg}"
                ) from error
            if not isinstance(cells, dict):
                raise WorkloadError(f"{path}, line {number}, column 1: expected a JSON object")
            yield Row(path, number, cells)


def first_line(path: Path) -> str:
    """Read the first line that is not blank, without its line end."""
    with open_text(path) as file:
        return next((line.strip() for line in _unspoilt(file, path) if line.strip()), "")


def _unspoilt(file: io.TextIOBase, path: Path) -> Iterator[str]:
    # A truncated .gz or a binary file fails while it is read, not when it is opened.
    try:
        yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise WorkloadError(f"cannot read {path}: {error}") from error
